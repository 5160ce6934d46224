"""Chromium without a network, for tests of pages; and axe-core, which checks them for everybody.

Needs Debian's packages chromium, chromium-driver and npm; where they are missing tests fail.
"""

import contextlib
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)
_AXE = "axe-core-4.10.3"
_AXE_SHA256 = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb"


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser that reaches nothing, and logs what pages say and ask for."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(found.values()), "install chromium and chromium-driver: apt-get install ..."
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options, Service(found["chromedriver"]))
    network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    try:
        yield driver
    finally:
        driver.quit()


def set_screen(browser: webdriver.Chrome, width: int, *, media: str = "", scheme: str = "light"):
    """Makes a page so many pixels wide, for a phone, a desk or paper (media "print")."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    emulated = {"media": media, "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)


def axe_script(folder: Path) -> str:
    """Returns axe-core, by npm's own client, from a folder where it is kept between runs."""
    kept = folder / f"{_AXE}.min.js"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        assert npm, "install npm: apt-get install npm"
        name, _, version = _AXE.rpartition("-")
        pack = [npm, "pack", f"{name}@{version}", "--silent"]
        subprocess.run(pack, cwd=folder, check=True, capture_output=True, timeout=120)
        with tarfile.open(folder / f"{_AXE}.tgz") as archive:
            content = archive.extractfile("package/axe.min.js").read()
        (folder / f"{_AXE}.tgz").unlink()
        kept.write_bytes(content)
    content = kept.read_bytes()
    assert hashlib.sha256(content).hexdigest() == _AXE_SHA256, f"{kept} is another file; delete it"
    return content.decode("utf-8")


def violations(browser: webdriver.Chrome, axe: str) -> list[str]:
    """Returns what axe-core finds wrong with the page that is open: rule, and where."""
    browser.set_script_timeout(240)  # seconds; it measures every element
    browser.execute_script(axe)
    found = browser.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations))"
    )
    return [
        f"{v['id']}: {node['target']} {node['failureSummary']}"
        for v in found
        for node in v["nodes"]
    ]

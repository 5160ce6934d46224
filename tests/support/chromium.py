"""A real browser for tests of pages: Debian's Chromium, without the services that it calls itself.

Needs Debian's packages chromium and chromium-driver; where they are missing, tests fail.
"""

import contextlib
import json
import os
import shutil

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from privynet_jax.platform.fetching import PinnedNpm, fetch_members

WIDTHS = {"small": 320, "phone": 390, "desk": 1280}
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)
_AXE = PinnedNpm("axe-core", "4.14.1")
_AXE_FILE = {"axe.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"}


@contextlib.contextmanager
def chromium(folder):
    """Yields a driver that keeps logs; what pages save lies in `folder / "saved"`."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(found.values()), "install chromium and chromium-driver: apt-get install ..."
    (folder / "saved").mkdir()
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    saving = {"download.default_directory": str(folder / "saved")}
    options.add_experimental_option("prefs", saving)
    for option in (*_OPTIONS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options, Service(found["chromedriver"]))
    try:
        driver.get("about:blank")  # and not the browser's own first page, which asks for much
        for kind in ("browser", "performance"):
            driver.get_log(kind)
        yield driver
    finally:
        driver.quit()


def requests_of(driver):
    """Addresses that were asked for since this was asked last."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def offline(driver):
    """Lets nothing be reached any more."""
    network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)


def look(driver, width, *, dark=False, media=""):
    """Makes the window as wide as said, as a phone has it where that is narrow, or paper."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    emulated = {"media": media, "features": [scheme]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)


def screenshot(driver, name):
    """Keeps a picture of all of the page as it is, where `PRIVYNET_TEST_SCREENSHOTS` says."""
    if not (folder := os.environ.get("PRIVYNET_TEST_SCREENSHOTS")):
        return
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    screen = {"width": size["width"], "height": size["height"], "deviceScaleFactor": 1}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen | {"mobile": False})
    driver.save_screenshot(os.path.join(folder, f"{name}.png"))


def violations(driver, cache_dir):
    """What axe-core finds wrong for those who see or move otherwise, in words."""
    driver.set_script_timeout(240)  # seconds; it looks at every element
    [axe] = fetch_members(_AXE, _AXE_FILE, cache_dir)
    # Through the driver, which no policy of the page holds up.
    driver.execute_script(axe.read_text(encoding="utf-8"))
    found = driver.execute_async_script("axe.run().then(arguments[0], arguments[0])")
    return [
        f"{one['id']}: {node['html']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]

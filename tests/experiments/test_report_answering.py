"""The report's page in Chromium, by keys, mouse and finger, without scripts, and while a grid runs.

Needs Debian's packages chromium, chromium-driver and npm; where they are missing these tests fail.
"""

import shutil
import time

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from support import chromium
from support.deciding_pages import DRAWN, text, written

from experiments.reporting import watching
from privynet_jax.platform.signals import Terminated

pytestmark = pytest.mark.slow


def test_the_command_can_be_copied(opened):
    opened.find_element(By.ID, "copy").click()
    WebDriverWait(opened, 10).until(lambda browser: text(browser, "copied"))
    selected = opened.execute_script("return getSelection().toString()")
    assert " ".join(selected.split()) == text(opened, "command")


def shown(browser):
    heading = browser.find_element(By.CSS_SELECTOR, "#details h3").text
    return browser.find_element(By.ID, "settings").get_property("value"), heading


def test_keys_alone_are_enough(opened):
    first = opened.find_element(By.CSS_SELECTOR, "[data-limit=psnr_db] [type=range]")
    opened.execute_script("arguments[0].focus()", first)
    before = text(opened, "command")
    first.send_keys(*[Keys.ARROW_LEFT] * 3)
    assert "--max_psnr_db=" in text(opened, "command")
    assert "--max_psnr_db=" not in before
    # On with the tabulator key until the list, then along it.
    for _ in range(40):
        if opened.switch_to.active_element.get_attribute("id") == "settings":
            break
        ActionChains(opened).send_keys(Keys.TAB).perform()
    opened.switch_to.active_element.send_keys(Keys.HOME)
    assert shown(opened) == ("m02_d004_both", "2 layers (conv1_2), 4 channels, both")
    opened.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert shown(opened) == ("m02_d004_random", "2 layers (conv1_2), 4 channels, random")
    names = [e.text for e in opened.find_elements(By.CSS_SELECTOR, "#details dt")]
    assert {"Draws of channels", "Strongest attacker", "Local computation", "Released"} <= set(
        names
    )


def place_of(browser, setting):
    """Where a point of the chart is, in pixels of the window, once it is in view."""
    x, y = browser.execute_script(
        "const mark = [...document.querySelectorAll('#chart .mark-symbol path')].find(p =>"
        "  p.__data__?.datum?.id === arguments[0]);"
        "mark.scrollIntoView({block: 'center'});"
        "const box = mark.getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]",
        setting,
    )
    return {"x": x, "y": y}


def test_pointers_and_fingers_pick_points(opened):
    def picked(setting):
        WebDriverWait(opened, 10).until(lambda browser: shown(browser)[0] == setting)

    for setting in ("m07_d016_random", "m10_d004_both"):
        at = {"type": "mouseMoved", **place_of(opened, setting)}
        opened.execute_cdp_cmd("Input.dispatchMouseEvent", at)
        picked(setting)
    # A mouse that rests on the chart does not undo what keys pick.
    opened.find_element(By.ID, "settings").send_keys(Keys.HOME)
    place_of(opened, "m04_d008_both")  # once the chart is drawn anew
    time.sleep(0.5)
    picked("m02_d004_both")
    for setting in ("m04_d008_both", "m02_d016_random"):
        for kind, points in (("touchStart", [place_of(opened, setting)]), ("touchEnd", [])):
            finger = {"type": kind, "touchPoints": points}
            opened.execute_cdp_cmd("Input.dispatchTouchEvent", finger)
        picked(setting)
    opened.find_element(By.ID, "to-choice").click()
    assert opened.find_element(By.CSS_SELECTOR, "#details p").text == "The planner's choice."


def test_without_scripts_the_still_report_is_there(page, tmp_path):
    with chromium.chromium(tmp_path) as browser:
        chromium.look(browser, 1280)
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.get(f"file://{page}")
        heights = browser.execute_script(
            "return ['.still img', '.deciding', '#table-settings'].map(name =>"
            "  document.querySelector(name).getBoundingClientRect().height)"
        )
        assert heights[0] > 200
        assert heights[1] == 0
        assert heights[2] > 100
        assert browser.get_log("browser") == []


def test_everybody_can_use_what_answers(opened, test_data_dir):
    # Contrast is a matter of colours, and the rest one of width.
    for width, scheme in ((320, "light"), (1280, "dark")):
        chromium.look(opened, width, dark=scheme == "dark")
        assert chromium.violations(opened, test_data_dir / "npm") == []
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_an_open_page_follows_a_running_grid(browser, grid, tmp_path):
    """What the reader has set stays."""
    shutil.copytree(grid[0].workdir / "cells", tmp_path / "run" / "cells")
    shutil.copy(grid[0].workdir / "config.json", tmp_path / "run")

    def stopped(_):
        raise Terminated

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "EVERY", 1.0)
        patch.setattr(watching.time, "sleep", stopped)
        with pytest.raises(Terminated):
            written(f"--workdir={tmp_path / 'run'}", "--notest_images", "--watch")
    page = tmp_path / "run" / "report.html"
    chromium.look(browser, 1280)
    browser.get(f"file://{page}")
    browser.execute_async_script(DRAWN)
    box = browser.find_element(By.CSS_SELECTOR, "[data-limit=psnr_db] [type=number]")
    box.clear()
    box.send_keys("21.5")
    content = page.read_text(encoding="utf-8")
    page.write_text(content.replace("<title>", "<title>Anew: "), encoding="utf-8")
    WebDriverWait(browser, 30).until(lambda browser: browser.title.startswith("Anew: "))
    assert "--max_psnr_db=21.5" in text(browser, "command")
    page.write_text(content, encoding="utf-8")
    browser.get("about:blank")

"""The report that decides with its reader, in Chromium: the same choices as the planner's.

Needs Debian's packages chromium and chromium-driver; where they are missing these tests fail.
"""

import dataclasses
import itertools
import json
import shlex
import time

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait
from support import browsers
from support import handmade_results as handmade

from experiments import report
from experiments.reporting.deciding import EXPECTED, MEASURED, setting_id
from privynet_jax.planning import planner
from privynet_jax.planning.plan import LIMITS, STATISTICS, Limits
from privynet_jax.planning.topology_plan import Characterised
from privynet_jax.results.latencies import Latencies, Latency
from privynet_jax.results.work_directory import ResultStore

pytestmark = pytest.mark.slow

LAYERS, DEPTHS, SELECTIONS = (2, 4, 7, 10), (4, 8, 16), ("both", "random")
QUESTIONS = 200
JUDGED = (MEASURED, EXPECTED)
DRAWN = "const done = arguments[0]; privynet.drawn.then(() => done())"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A work directory of numbers by chance, of which all limits have a say; and latencies."""
    rng = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("grid")
    axes = {"layers": list(LAYERS), "depths": list(DEPTHS), "selections": list(SELECTIONS)}
    config = handmade.settings(**axes, mechanism="gaussian:clip=1,sigma=45")
    store, names = ResultStore.open(folder / "run", config), []
    for m, d, draw, method in itertools.product(LAYERS, DEPTHS, range(2), SELECTIONS):
        attacks = tuple(
            handmade.attack(name, rng.uniform(12, 30), rng.uniform(0.2, 0.7))
            for name in ("linear", "residual")
        )
        cell = handmade.cell(m, d, draw, rng.uniform(0.2, 0.9), attacks, method)
        images = {"accuracy": np.ones(7), "psnr_db": np.full(7, 20.0)}
        store.save(cell, images)
        names.append(cell.name)
    store.write_tables(names)
    (folder / "run" / "reference.csv").write_text(
        "reference,accuracy,psnr_db_mean\nno_split,0.5,\nmean_image,,13.5\n"
    )
    networks = tuple(
        Latency(m, d, float(rng.uniform(1, 40))) for m, d in itertools.product(LAYERS, DEPTHS)
    )
    latencies = Latencies("an abacus", "vgg16", 32, networks)
    latencies.write(folder / "latency.json")
    return store, config, latencies


@pytest.fixture(scope="module")
def page(grid):
    folder = grid[0].workdir
    given = [f"--workdir={folder}", "--notest_images", f"--latency={folder.parent}/latency.json"]
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["report", *given])
        report.main()
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["tests"])
    assert (folder / "report.html").stat().st_size < 5 * 2**20
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsers.chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(browser, page):
    browsers.set_screen(browser, 1280)
    browser.get("about:blank")  # so that the same address is loaded anew
    browser.get_log("browser")
    browser.get(f"file://{page}")
    browser.execute_async_script(DRAWN)
    yield browser
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def options(grid):
    """(selection, statistic, judged) -> the options among which a plan is chosen."""
    store, config, latencies = grid
    results, found = store.grid_results(config), {}
    for selection, statistic in itertools.product(SELECTIONS, STATISTICS):
        cells = [result for result in results if result.selection == selection]
        own = [
            dataclasses.replace(o, cost={**o.cost, "latency_ms": latencies.of(*at, *o.shape)})
            for at in [("vgg16", 32)]
            for o in Characterised(store, config, cells).options(statistic)
        ]
        found[selection, statistic, EXPECTED] = own
        found[selection, statistic, MEASURED] = planner.unmeasured(own)
    return found


@pytest.fixture(scope="module")
def questions(options):
    """Limits at random; every third number is exactly what some option needs."""
    rng, asked = np.random.default_rng(11), []
    for _ in range(QUESTIONS):
        key = tuple(map(str, (rng.choice(of) for of in (SELECTIONS, STATISTICS, JUDGED))))
        limits = {}
        for name in LIMITS:
            if rng.random() < 0.55:
                continue
            needs = [planner.least_limit(o, name, planner.MARGINS) for o in options[key]]
            edge = float(rng.choice(needs))
            span = max(needs) - min(needs)
            own = float(rng.uniform(min(needs) - 0.1 * span, max(needs) + 0.1 * span))
            limits[name] = edge if rng.random() < 1 / 3 else max(own, 1e-3)
        asked.append((key, limits))
    return asked


def planned(options, key, limits):
    """What the planner says."""
    decision = planner.choose(options[key], Limits(**limits, statistic=key[1]))
    chosen = decision.chosen
    joint = not chosen and decision.remedy_is_joint
    return {
        "chosen": chosen and setting_id(*chosen.shape, chosen.selection),
        "allowed": [setting_id(*o.shape, o.selection) for o in decision.feasible],
        "binding": list(decision.binding),
        "joint": joint,
        "changes": [[s.limit, s.needed] for s in decision.remedies],
    }


def test_the_page_chooses_as_the_planner(opened, options, questions):
    asked = [
        dict(zip(("selection", "statistic", "judged"), key, strict=True)) | {"limits": limits}
        for key, limits in questions
    ]
    found = opened.execute_script(
        "return JSON.stringify(JSON.parse(arguments[0]).map(asked => {"
        "  const d = privynet.decide(asked);"
        "  return {chosen: d.chosen && d.chosen.id, allowed: d.allowed.map(o => o.id),"
        "    binding: d.binding, joint: d.remedies.joint,"
        "    changes: d.remedies.changes.map(c => [c.name, c.needed])};"
        "}))",
        json.dumps(asked),
    )
    expected = [planned(options, *each) for each in questions]
    assert json.loads(found) == expected
    # Chance has asked for everything that there is to tell apart.
    assert 40 < sum(each["chosen"] is None for each in expected) < 160
    assert len({each["chosen"] for each in expected}) > 10
    assert {limit for each in expected for limit in each["binding"]} == set(LIMITS)
    assert {each["joint"] for each in expected} == {True, False}
    assert {key[2] for key, _ in questions} == set(JUDGED)


def set_question(browser, key, limits):
    for name, value in zip(("selection", "statistic", "judged"), key, strict=True):
        Select(browser.find_element(By.ID, name)).select_by_value(value)
    for name in LIMITS:
        box = browser.find_element(By.CSS_SELECTOR, f"[data-limit={name}]")
        number = box.find_element(By.CSS_SELECTOR, "[type=number]")
        number.clear()
        number.send_keys(repr(limits[name]) if name in limits else Keys.BACKSPACE)
        on = box.find_element(By.CSS_SELECTOR, "[type=checkbox]")
        assert on.is_selected() == (name in limits)


def text(browser, name):
    return browser.find_element(By.ID, name).get_property("textContent")


def test_what_is_typed_is_decided_and_told(opened, options, questions):
    some = [each for each in questions if len(each[1]) > 2]
    told = [planned(options, *each) for each in some]
    fitting = [at for at, each in enumerate(told) if each["chosen"]][:3]
    others = [at for at, each in enumerate(told) if not each["chosen"]][:2]
    for (key, limits), expected in ((some[at], told[at]) for at in fitting + others):
        set_question(opened, key, limits)
        stars = opened.execute_script(
            "return [...document.getElementById('settings').options]"
            "  .filter(o => o.text.includes('\\u2605')).map(o => o.value)"
        )
        assert stars == ([expected["chosen"]] if expected["chosen"] else [])
        lit = opened.execute_async_script(
            "const done = arguments[0]; setTimeout(() => privynet.drawn.then(view => done("
            "  view.data('settings').filter(r => r.state === 'allowed').map(r => r.id))), 100)"
        )
        assert set(lit) == set(expected["allowed"])
        words = shlex.split(text(opened, "command"))
        assert words[:3] == ["python", "-m", "experiments.plan"]
        given = dict(word[2:].split("=", 1) for word in words[3:])
        assert given["workdir"] == "run"
        assert given["selection"] == key[0]
        assert given.get("statistic", "mean") == key[1]
        assert (given.get("attacked_images") == "0") == (key[2] == EXPECTED)
        assert {n: float(given[f"max_{n}"]) for n in LIMITS if f"max_{n}" in given} == limits
        verdict = text(opened, "verdict")
        assert verdict.startswith("Nothing") == (expected["chosen"] is None)
        assert all(
            f"--max_{name}={needed:g}"[:12] in verdict for name, needed in expected["changes"]
        )


def test_it_comes_back_as_it_was_left(opened, options, questions):
    key, limits = next(each for each in questions if len(each[1]) > 2)
    set_question(opened, key, limits)
    before = text(opened, "command"), text(opened, "verdict")
    opened.refresh()
    opened.execute_async_script(DRAWN)
    assert (text(opened, "command"), text(opened, "verdict")) == before


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
    with browsers.chromium(tmp_path / "profile") as browser:
        browsers.set_screen(browser, 1280)
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


def test_everybody_can_use_what_answers(opened, axe_source):
    for width, scheme in itertools.product((320, 1280), ("light", "dark")):
        browsers.set_screen(opened, width, scheme=scheme)
        assert browsers.violations(opened, axe_source) == []
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width

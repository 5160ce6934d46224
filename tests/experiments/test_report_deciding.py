"""The report that decides with its reader, in Chromium: the same choices as the planner's.

Needs Debian's packages chromium and chromium-driver; where they are missing these tests fail.
"""

import dataclasses
import itertools
import json
import shlex

import numpy as np
import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from support.deciding_pages import DRAWN, SELECTIONS, text

from experiments.reporting.deciding import EXPECTED, MEASURED, setting_id
from privynet_jax.planning import planner
from privynet_jax.planning.plan import LIMITS, STATISTICS, Limits
from privynet_jax.planning.topology_plan import Characterised

pytestmark = pytest.mark.slow

QUESTIONS = 200
JUDGED = (MEASURED, EXPECTED)


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


def test_what_is_typed_is_decided_and_told(opened, options, questions):
    some = [each for each in questions if len(each[1]) > 2]
    told = [planned(options, *each) for each in some]
    fitting = [at for at, each in enumerate(told) if each["chosen"]][:2]
    others = [at for at, each in enumerate(told) if not each["chosen"]][:1]
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
        for name, needed in expected["changes"]:
            assert float(verdict.partition(f"--max_{name}=")[2].split()[0]) == needed


def test_it_comes_back_as_it_was_left(opened, options, questions):
    key, limits = next(each for each in questions if len(each[1]) > 2)
    set_question(opened, key, limits)
    before = text(opened, "command"), text(opened, "verdict")
    opened.execute_async_script("setTimeout(arguments[0], 300)")  # addresses wait for the last key
    opened.refresh()
    opened.execute_async_script(DRAWN)
    assert (text(opened, "command"), text(opened, "verdict")) == before
    # A link of the contents is followed, and undoes nothing.
    opened.find_element(By.CSS_SELECTOR, "nav a[href='#assumed']").click()
    opened.refresh()
    opened.execute_async_script(DRAWN)
    assert opened.execute_script("return location.hash") == "#assumed"
    assert (text(opened, "command"), text(opened, "verdict")) == before


def test_the_picture_shows_the_attacker_that_is_asked_for(opened, grid):
    store, config, _ = grid
    Select(opened.find_element(By.ID, "attacker")).select_by_value("linear")
    Select(opened.find_element(By.ID, "statistic")).select_by_value("p95")
    drawn = opened.execute_async_script(
        "const done = arguments[0]; setTimeout(() => privynet.drawn.then(view => done("
        "  Object.fromEntries(view.data('settings').map(r => [r.id, r.loss])))), 100)"
    )
    expected = {}
    for result in store.grid_results(config):
        name = setting_id(result.num_layers, result.depth, result.selection)
        [attack] = [a for a in result.attacks if a.attacker == "linear"]
        expected.setdefault(name, []).append(attack.psnr_db.p95)
    # Written with three digits after the point.
    assert drawn == pytest.approx({name: np.mean(v) for name, v in expected.items()}, abs=6e-4)

"""Reports of numbers by chance, and how tests read the page that decides with its reader."""

import itertools

import numpy as np
from absl import flags
from absl.testing import flagsaver
from selenium.webdriver.common.by import By

from experiments import report
from privynet_jax.results.latencies import Latencies, Latency
from privynet_jax.results.work_directory import ResultStore
from support import chromium
from support import handmade_results as handmade

LAYERS, DEPTHS, SELECTIONS = (2, 4, 7, 10), (4, 8, 16), ("both", "random")
DRAWN = "const done = arguments[0]; privynet.drawn.then(() => done())"


def grid(folder):
    """A work directory of numbers by chance, of which all limits have a say; and latencies."""
    rng = np.random.default_rng(7)
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


def written(*given):
    """Runs the command."""
    try:
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            flags.FLAGS(["report", *given])
            report.main()
    finally:
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["tests"])


def page_of(store):
    """Writes the report of a grid, and returns its place."""
    folder = store.workdir
    latency = f"--latency={folder.parent}/latency.json"
    written(f"--workdir={folder}", "--notest_images", latency)
    assert (folder / "report.html").stat().st_size < 5 * 2**20
    return folder / "report.html"


def opened(browser, page):
    """Opens a page anew, until its chart is drawn."""
    chromium.look(browser, 1280)
    browser.get("about:blank")  # so that the same address is loaded anew
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(f"file://{page}")
    browser.execute_async_script(DRAWN)


def text(browser, name):
    """What an element says, seen or not."""
    return browser.find_element(By.ID, name).get_property("textContent")

"""The report's page in Chromium, and a network that trains in no time, for several test files."""

import pytest
from support import chromium, deciding_pages
from support.small_strong import without_blocks

from privynet_jax.training.models.attackers import CAPACITIES, STRONG


@pytest.fixture
def small_strong(monkeypatch):
    """The strong attacker without its blocks, for tests of what is done with it."""
    monkeypatch.setitem(CAPACITIES, STRONG, without_blocks())


@pytest.fixture(scope="session")
def grid(tmp_path_factory):
    """A work directory of numbers by chance, its settings, and latencies."""
    return deciding_pages.grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="session")
def page(grid):
    """Its report."""
    return deciding_pages.page_of(grid[0])


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium, which reaches nothing."""
    with chromium.chromium(tmp_path_factory.mktemp("browser")) as driver:
        chromium.offline(driver)
        yield driver


@pytest.fixture
def opened(browser, page):
    """The browser with the report, which may neither complain nor ask for anything."""
    deciding_pages.opened(browser, page)
    yield browser
    assert browser.get_log("browser") == []
    assert not [url for url in chromium.requests_of(browser) if url.startswith("http")]

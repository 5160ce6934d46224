"""The report in a real browser without a network: Chromium, at the width of a desk and of a phone.

Needs Debian's packages chromium and chromium-driver; where they are missing these tests fail.
"""

import html
import shutil

import pytest
from selenium.webdriver.common.by import By
from support import chromium
from support.deciding_pages import written

pytestmark = pytest.mark.slow

WIDTHS = chromium.WIDTHS


@pytest.fixture(scope="module")
def page(tiny_run, tmp_path_factory):
    """A report with a wide and long table of another command, and a picture to it."""
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(tiny_run.workdir, folder)
    columns = ",".join(f"some_wide_column_{i}" for i in range(30))
    (folder / "risk.csv").write_text(columns + 40 * ("\n" + ",".join(["0.123456"] * 30)) + "\n")
    written(f"--workdir={folder}", f"--data_dir={tiny_run.data_dir}")
    # Apart from everything that lies beside it.
    return shutil.copy(folder / "report.html", tmp_path_factory.mktemp("alone") / "report.html")


@pytest.fixture
def opened(request, browser, page):
    """The browser with the page, all of it unfolded, as wide as a desk or as a test asks for."""
    chromium.look(browser, WIDTHS[getattr(request, "param", "desk")])
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(f"file://{page}")
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    return browser


def test_nothing_is_fetched_and_nothing_complained_of(opened, page):
    assert opened.get_log("browser") == []
    requested = chromium.requests_of(opened)
    assert f"file://{page}" in requested
    assert not [url for url in requested if url.startswith("http")]


def test_it_answers_in_a_notebooks_frame(browser, page, tmp_path):
    """As a cell of the notebook shows it: a document within another, without an address."""
    text = html.escape(page.read_text(encoding="utf-8"))
    (tmp_path / "cell.html").write_text(f'<iframe srcdoc="{text}" width="900"></iframe>')
    browser.get(f"file://{tmp_path / 'cell.html'}")
    browser.switch_to.frame(0)
    assert "options keep the limits" in browser.find_element(By.ID, "verdict").text
    asked = browser.find_element(By.CSS_SELECTOR, "[data-limit=psnr_db] [type=number]")
    asked.clear()
    asked.send_keys("1")
    assert "Nothing that was characterised" in browser.find_element(By.ID, "verdict").text
    browser.switch_to.default_content()


def test_all_pictures_are_decoded(opened):
    widths = opened.execute_script(
        "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) > 20
    assert min(widths) > 0


@pytest.mark.parametrize("opened", WIDTHS, indirect=True)
def test_wide_content_scrolls_in_its_own_box(opened):
    widths = opened.execute_script(
        "const page = document.documentElement;"
        "const boxes = [...document.querySelectorAll('.scroll')];"
        "return [page.scrollWidth, innerWidth, "
        "boxes.filter(b => b.scrollWidth > b.clientWidth).length, "
        "Math.max(...boxes.map(b => b.getBoundingClientRect().right))]"
    )
    assert widths[0] <= widths[1]
    assert widths[1] in WIDTHS.values()
    assert widths[2] >= 1
    assert widths[3] <= widths[1]


@pytest.mark.parametrize("opened", ["small", "desk"], indirect=True)
def test_it_is_set_for_readers(opened):
    found = opened.execute_script(
        "return {h1: document.querySelectorAll('h1').length,"
        " levels: [...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1]),"
        " size: parseFloat(getComputedStyle(document.querySelector('main p')).fontSize),"
        " links: [...document.querySelectorAll('nav a')].map("
        "  a => !!document.getElementById(a.getAttribute('href').slice(1))),"
        " title: document.title, lang: document.documentElement.lang}"
    )
    assert found["h1"] == 1
    assert found["size"] >= 16
    assert found["lang"] == "en"
    assert "photo_patches" in found["title"]
    assert len(found["links"]) >= 6
    assert all(found["links"])
    pairs = zip(found["levels"], found["levels"][1:], strict=False)
    assert all(below <= above + 1 for above, below in pairs)


# Relative luminance and contrast by the Web Content Accessibility Guidelines, 1.4.3.
CONTRAST = """
const light = text => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(x => x / 255).map(
    x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = getComputedStyle(document.body).backgroundColor;
return ['h1', 'p', '.soft', 'caption', 'td', 'nav a', 'summary'].map(s => {
  const two = [getComputedStyle(document.querySelector(s)).color, paper].map(light);
  return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
}).concat([light(paper)]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_readable(opened, scheme):
    chromium.look(opened, WIDTHS["desk"], dark=scheme == "dark")
    *contrasts, paper = opened.execute_script(CONTRAST)
    assert min(contrasts) >= 4.5
    assert (paper > 0.5) == (scheme == "light")


# Contrast is a matter of colours, and the rest one of width.
@pytest.mark.parametrize(
    ("opened", "scheme"), [("small", "light"), ("desk", "dark")], indirect=["opened"]
)
def test_it_is_accessible(opened, scheme, test_data_dir):
    chromium.look(opened, opened.execute_script("return innerWidth"), dark=scheme == "dark")
    assert chromium.violations(opened, test_data_dir / "npm") == []
    chromium.screenshot(opened, f"report_{opened.execute_script('return innerWidth')}_{scheme}")


def test_paper_loses_no_column(opened):
    # A4 of 210 mm with Chromium's margins, at 96 dots per inch.
    chromium.look(opened, 718, media="print")
    found = opened.execute_script(
        "const cells = [...document.querySelectorAll('tbody th, tbody td')].filter("
        "  c => c.checkVisibility());"
        "const wide = [...document.querySelectorAll('table.wide tbody tr')].map("
        "  r => [...r.children].map(c => c.dataset.column).join());"
        "return {cells: cells.length, right: Math.max(...cells.map("
        "   c => c.getBoundingClientRect().right)), page: document.documentElement.scrollWidth,"
        " named: wide.every(names => names.split(',').length > 9 && !names.includes('undefined')),"
        " wide: wide.length, controls: [...document.querySelectorAll("
        "  'input, select, button, #chart')].filter(c => c.checkVisibility()).length,"
        " still: document.querySelector('.still img').getBoundingClientRect().width}"
    )
    assert found["cells"] > 40 * 30
    assert found["wide"] > 40
    assert found["named"]
    assert found["right"] <= found["page"] <= 718
    assert found["controls"] == 0
    assert 400 < found["still"] <= 718

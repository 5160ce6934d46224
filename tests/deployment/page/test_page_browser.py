"""The page in a real browser: what it asks for, what it releases, what it predicts.

Its scripts are other code than the library's, so both do the same here and are compared.
"""

import base64
import csv
import functools
import http.server
import io
import itertools
import threading
import time

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from support import chromium
from support import package_samples as samples
from support.handmade_classifier import handmade_classifier

from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.cloud.classifier import save_classifier
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.deployment.device.package_export import write_package
from privynet_jax.deployment.page.attacker_graph import attacker_graph
from privynet_jax.deployment.page.page_file import Attacker
from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.platform.onnx_files.onnx_run import REPRESENTATIONS, OnnxRun
from privynet_jax.training.checkpoints import by_path
from privynet_jax.training.models.attackers import CAPACITIES, STRONG

pytestmark = pytest.mark.slow

TOPOLOGY, SIZE = Topology(4, (3, 17, 90, 91, 100)), 32
# Of the cat, the dog and books, and what is in no class.
# Sums of 9 x 128 products of about 1, or of more that are less, in float32; steps of float16 near 0
# are finer.
ROUNDING = 9 * 128 * 2**-24
COUNTS = {"cat": 9, "dog": 7, "Bücher": 4}
PATIENCE = 60
# Scrolls there, and tells how far down something is when this has been drawn.
SHOW = """
    const [shown, done] = arguments, drawn = () => done(shown.getBoundingClientRect().top);
    shown.scrollIntoView({ block: "center" });
    requestAnimationFrame(() => requestAnimationFrame(drawn));
"""


@pytest.fixture(scope="module")
def package(vgg_weights, test_data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("with page") / "package"
    plan = samples.plan(vgg_weights, TOPOLOGY, SIZE)
    write_package(folder, plan, vgg_weights.params, page_cache=test_data_dir / "npm")
    return folder


@pytest.fixture(scope="module")
def shown(vgg_weights, test_data_dir, tmp_path_factory):
    """A package whose page shows an attacker that nobody trained, and that attacker's network."""
    folder = tmp_path_factory.mktemp("with attacker") / "package"
    shape, rng = TOPOLOGY.representation_shape(SIZE), np.random.default_rng(3)
    task, values = CAPACITIES[STRONG].task(SIZE), 3 * (SIZE // shape[0]) ** 2
    params = by_path(task.init(jax.random.key(1), np.ones((1, *shape), np.float32)))
    kernel = np.float32(0.05 * rng.normal(size=(3, 3, shape[-1], values)))
    network = attacker_graph(params, kernel, np.full(values, 0.4, np.float32), shape, SIZE)
    plan, attacker = samples.plan(vgg_weights, TOPOLOGY, SIZE), Attacker(network, 19.46, 1234)
    cache = test_data_dir / "npm"
    write_package(folder, plan, vgg_weights.params, page_cache=cache, attacker=attacker)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "page.html"]
    return folder, network


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of PNGs of the network's size, by class; the last dog is a copy of the first."""
    folder = tmp_path_factory.mktemp("chosen") / "pictures"
    photograph, rng = skimage.data.astronaut(), np.random.default_rng(5)
    for name, count in COUNTS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            top, left = rng.integers(0, 480, 2)
            pixels = photograph[top : top + SIZE, left : left + SIZE]
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "dog" / "copy.png").write_bytes((folder / "dog" / "0.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture(scope="module")
def saved(tmp_path_factory, browser):
    """Where it saves; the driver knows the folder that it was started in."""
    return next(tmp_path_factory.getbasetemp().glob("browser*")) / "saved"


@pytest.fixture
def opened(browser, package):
    """The page from the disk, once it is ready."""
    open_page(browser, f"file://{package / 'page.html'}")
    yield browser
    assert browser.get_log("browser") == []


@pytest.fixture
def served(package):
    """Address of a server on this machine that has the package, and the requests that it got."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            asked.append(self.path)

        def do_POST(self):
            asked.append(f"posted {self.path}")
            self.send_error(404)

    handler = functools.partial(Handler, directory=package)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def open_page(driver, address):
    driver.get(address)
    state = waited(driver, "state", "Unpacking")
    assert state.startswith("Ready."), state


def text(driver, name):
    return driver.find_element(By.ID, name).text


def waited(driver, name, not_yet):
    """What stands at a place, as soon as it is something else."""
    end = time.monotonic() + PATIENCE
    while not (found := text(driver, name)) or not_yet in found:
        assert time.monotonic() < end, f"{name} still says {found!r}"
        time.sleep(0.05)
    return found


def press(driver, name):
    """Clicks what has come to rest: pictures take their heights as they come into sight."""
    button, last = driver.find_element(By.ID, name), None
    while last != (top := driver.execute_async_script(SHOW, button)):
        last = top
    button.click()


def choose(driver, name, *paths):
    driver.find_element(By.ID, name).send_keys("\n".join(map(str, paths)))


def choose_all(driver, pictures):
    choose(driver, "folder", pictures)
    told = waited(driver, "told", "never")
    assert told == f"{sum(COUNTS.values()) + 1} pictures here."


def release(driver, saved):
    """Presses the button, and returns what is said and the file."""
    path = saved / "release.tar"
    path.unlink(missing_ok=True)
    driver.execute_script("document.getElementById('released').textContent = ''")
    press(driver, "release")
    told = waited(driver, "released", "never")
    return told, there(path) if "holds" in told else None


def there(path):
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not saved"
        time.sleep(0.05)
    return path


def expected_rows(package, pictures):
    """Class id -> float16 rows of its different pictures, as the device's program makes them."""
    opened, found = open_package(package), {}
    for name in COUNTS:
        files = [path for path in sorted((pictures / name).iterdir()) if path.name != "copy.png"]
        images = np.stack([decode_picture(path.read_bytes(), SIZE) for path in files])
        found[opened.class_ids[name]] = np.float16(opened.represent(images))
    return found


def apart(one, other):
    """How far float16 values are apart at most, beyond a step from one to the next."""
    step = np.spacing(np.maximum(one, other))
    return (np.abs(np.float64(one) - other) - step).max()


def test_a_release_is_the_devices_own(opened, package, pictures, saved):
    choose_all(opened, pictures)
    told, path = release(opened, saved)
    total = sum(COUNTS.values())
    assert told.startswith(f"release.tar holds {total} rows, shuffled, with classes; 1 copy left")
    found = open_release(path)
    assert (len(found), found.plan_id) == (total, open_package(package).plan_id)
    expected = expected_rows(package, pictures)
    assert found.classes == tuple(sorted(expected))
    for label, class_id in enumerate(found.classes):
        rows = np.asarray(found.representations[np.flatnonzero(found.labels == label)])
        assert len(rows) == len(expected[class_id])
        nearest = [min(apart(row, one) for one in rows) for row in expected[class_id]]
        assert max(nearest) <= ROUNDING
    assert np.any(np.diff(found.labels) < 0)
    first = path.read_bytes()
    # Chosen the other way around they make the same release.
    open_page(opened, opened.current_url)
    for name in reversed(COUNTS):
        Select(opened.find_element(By.ID, "next")).select_by_visible_text(name)
        choose(opened, "files", *sorted((pictures / name).iterdir(), reverse=True))
        opened.execute_async_script("waiting.then(arguments[0])")
    _, path = release(opened, saved)
    assert path.read_bytes() == first


def test_classes_are_those_of_when_pictures_were_chosen(opened, pictures, tmp_path):
    """Whatever is chosen meanwhile; and of folders, none but known ones."""
    chosen = Select(opened.find_element(By.ID, "next"))
    for name in ("Bücher", "dog"):
        chosen.select_by_visible_text(name)
        choose(opened, "files", *sorted((pictures / "cat").iterdir()))
    for name in ("Bu\u0308cher", "horse"):  # as some file systems spell it
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / "a.png").write_bytes((pictures / "cat" / "0.png").read_bytes())
    choose(opened, "folder", tmp_path / "all")
    opened.execute_async_script("waiting.then(arguments[0])")
    labels = opened.execute_script("return page.rows.map((row) => row.label)")
    assert labels[:18] == 9 * ["Bücher"] + 9 * ["dog"]
    assert {*labels[18:]} == {"Bücher", None}
    assert "Without a class: those in horse" in text(opened, "told")


def test_a_page_releases_a_picture_once(opened, pictures, saved):
    Select(opened.find_element(By.ID, "next")).select_by_visible_text("cat")
    files = sorted((pictures / "cat").iterdir())
    for some, rows in ((files[:4], 4), (files[4:], 5)):
        choose(opened, "files", *some)
        opened.execute_async_script("waiting.then(arguments[0])")
        assert f"holds {rows} rows" in release(opened, saved)[0]
    for again in ([], files[:2]):
        if again:
            choose(opened, "files", *again)
        opened.execute_async_script("waiting.then(arguments[0])")
        assert "Nothing is here that this page has not released" in release(opened, saved)[0]


def test_without_labels_nothing_tells_of_classes(opened, pictures, saved):
    choose_all(opened, pictures)
    press(opened, "labelled")
    told, path = release(opened, saved)
    assert "without classes" in told
    found = open_release(path)
    assert (found.labels, found.classes) == (None, None)


def test_nothing_leaves(browser, served, pictures):
    """A server on this machine has the page; all that the browser asks it for is that one file."""
    address, asked = served
    chromium.requests_of(browser)
    open_page(browser, f"{address}/page.html")
    choose_all(browser, pictures)
    press(browser, "release")
    waited(browser, "released", "never")
    inside = (f"blob:{address}/", "data:,")  # what is saved, and the page's lack of an icon
    requests = chromium.requests_of(browser)
    assert [r for r in requests if not r.startswith(inside)] == [f"{address}/page.html"]
    assert browser.get_log("browser") == []
    # A foreign script would not run; what one would try is refused, but for leaving the page.
    refused = browser.execute_async_script(
        """
        const [address, done] = arguments, found = [], body = document.body;
        const make = (tag, given) => Object.assign(document.createElement(tag), given);
        document.addEventListener("securitypolicyviolation", (event) => {
          found.push(event.effectiveDirective);
        });
        fetch(`${address}/fetched`).catch(() => {});
        try { new WebSocket(address.replace("http", "ws")); } catch {}
        try { new EventSource(`${address}/events`); } catch {}
        navigator.sendBeacon(`${address}/beacon`, "x");
        new Image().src = `${address}/image.png`;
        const form = make("form", { action: address, method: "post" });
        body.append(form);
        form.submit();
        for (const tag of ["script", "iframe"]) body.append(make(tag, { src: `/${tag}` }));
        body.append(make("script", { textContent: "alert(1)" }));
        setTimeout(() => done(found), 1000);
        """,
        address,
    )
    assert asked == ["/page.html"]
    assert {"connect-src", "img-src", "form-action", "script-src-elem", "frame-src"} <= {*refused}
    browser.get_log("browser")


def test_pictures_are_shrunk_as_the_library_does(opened):
    """All pixels are equal where files hold them without loss: both filters count in integers.

    Of tall pictures that are not cut, Pillow may shrink columns first, which rounds otherwise.
    """
    photograph = skimage.data.chelsea()
    sizes = [(300, 451), (64, 64), (33, 200), (200, 33), (31, 47), (7, 9), (32, 32), (299, 450)]
    for fit, (height, width) in itertools.product(("crop", "pad"), sizes):
        file = io.BytesIO()
        Image.fromarray(photograph[:height, :width]).save(file, "PNG")
        found = opened.execute_async_script(
            """
            const [text, size, fit, done] = arguments;
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            pixelsOf(new Blob([bytes]), size, fit).then((found) => done(Array.from(found)));
            """,
            base64.b64encode(file.getvalue()).decode(),
            SIZE,
            fit,
        )
        expected = decode_picture(file.getvalue(), SIZE, reading=Reading(fit=fit))
        apart = np.abs(np.reshape(found, expected.shape) - expected.astype(int)).max()
        assert apart <= (fit == "pad" and height > width)


def test_predictions_are_the_classifiers(opened, package, pictures, saved, tmp_path):
    local = open_package(package)
    classes = (*list(local.class_ids.values())[:2], "ff" * 32)
    classifier = handmade_classifier(local.shape, classes=classes, plan_id=local.plan_id)
    save_classifier(tmp_path / "classifier", classifier)
    choose_all(opened, pictures)
    (tmp_path / "=1+1.png").write_bytes((pictures / "cat" / "1.png").read_bytes())
    choose(opened, "files", tmp_path / "=1+1.png")
    choose(opened, "classifier", tmp_path / "classifier")
    assert waited(opened, "predicted", "ready").startswith("22 pictures predicted")
    press(opened, "table")
    lines = there(saved / "predictions.csv").read_text(encoding="utf-8").splitlines()
    head, *rows = csv.reader(lines)
    assert rows.pop()[0] == "'=1+1.png"
    names = [*list(local.class_ids)[:2], "unknown ffffffff"]
    assert head == ["picture", "class", *(f"probability_{name}" for name in names)]
    images = [decode_picture((pictures.parent / row[0]).read_bytes(), SIZE) for row in rows]
    expected = classifier.probabilities(np.float16(local.represent(np.stack(images))))
    # Representations may differ by a step of float16, 2**-11; of logits of about 1, this is ample.
    np.testing.assert_allclose(np.float64([row[2:] for row in rows]), expected, atol=2e-3)
    assert [row[1] for row in rows] == [names[place] for place in expected.argmax(axis=1)]


def test_what_is_dropped_is_taken(opened, package, pictures, tmp_path):
    local = open_package(package)
    fields = {"classes": tuple(sorted(local.class_ids.values())), "plan_id": local.plan_id}
    save_classifier(tmp_path / "classifier", handmade_classifier(local.shape, **fields))
    for folder in (pictures / "cat", tmp_path / "classifier"):
        files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
        opened.execute_script(
            """
            const dataTransfer = new DataTransfer();
            for (const [name, text] of arguments[0]) {
              const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
              dataTransfer.items.add(new File([bytes], name));
            }
            const dropped = { dataTransfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", dropped));
            """,
            [(name, base64.b64encode(data).decode()) for name, data in files],
        )
        if folder.name == "cat":
            assert waited(opened, "told", "never") == f"{COUNTS['cat']} pictures here."
    assert waited(opened, "predicted", "ready").startswith(f"{COUNTS['cat']} pictures predicted")


def test_what_is_refused_is_said(opened, package, pictures, saved, tmp_path):
    local = open_package(package)
    (tmp_path / "note.png").write_text("no picture")
    choose(opened, "files", tmp_path / "note.png")
    assert "1 file could not be read: note.png" in waited(opened, "told", "never")
    first = pictures / "dog" / "0.png"
    for name in ("cat", "dog"):
        Select(opened.find_element(By.ID, "next")).select_by_visible_text(name)
        choose(opened, "files", first)
        opened.execute_async_script("waiting.then(arguments[0])")
    assert "show the same, in two classes" in release(opened, saved)[0]
    Select(opened.find_element(By.ID, "next")).select_by_visible_text("not told")
    choose(opened, "files", pictures / "cat" / "1.png")
    opened.execute_async_script("waiting.then(arguments[0])")
    assert "1 picture without a class, such as 1.png" in release(opened, saved)[0]
    deep = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), 4095, np.uint16)).save(deep, "PNG")
    (tmp_path / "deep.png").write_bytes(deep.getvalue())
    choose(opened, "files", tmp_path / "deep.png")
    opened.execute_async_script("waiting.then(arguments[0])")
    assert "16 bits a channel; release it by the program" in text(opened, "told")
    fields = {"classes": tuple(local.class_ids.values()), "plan_id": local.plan_id}
    save_classifier(tmp_path / "other", handmade_classifier(local.shape, plan_id="2e" * 32))
    save_classifier(tmp_path / "damaged", handmade_classifier(local.shape, **fields))
    params = tmp_path / "damaged" / "params.safetensors"
    params.write_bytes(params.read_bytes()[:-1] + b"\1")
    save_classifier(tmp_path / "edited", handmade_classifier(local.shape, **fields))
    told = tmp_path / "edited" / "classifier.json"
    told.write_text(told.read_text().replace('"several": false', '"several": true'))
    for name, why in {
        "other": "of another plan",
        "damaged": "params.safetensors is damaged",
        "edited": "was changed after it was written",
    }.items():
        choose(opened, "classifier", tmp_path / name)
        opened.execute_async_script("waiting.then(arguments[0])")
        assert why in text(opened, "predicted")


def test_an_attacker_is_shown_and_nothing_released(
    browser, package, shown, pictures, test_data_dir
):
    folder, network = shown
    open_page(browser, f"file://{folder / 'page.html'}")
    choose(browser, "files", *sorted((pictures / "cat").iterdir()))
    waited(browser, "told", "never")
    told = text(browser, "attacker-told")
    assert "from 1,234 other pictures: 19.5 dB" in told
    assert "no bound" in told
    assert "This page is for showing" in text(browser, "demonstration")
    assert not browser.find_element(By.ID, "release").is_displayed()
    assert "releases nothing" in browser.execute_async_script(
        "const done = arguments[0]; release().catch((error) => done(error.message))"
    )
    said = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#pictures p.soft")]
    files = sorted((pictures / "cat").iterdir())
    images = np.stack([decode_picture(path.read_bytes(), SIZE) for path in files])
    rows = np.float32(np.float16(open_package(package).represent(images)))
    rebuilt = OnnxRun(network, "again").run({REPRESENTATIONS: rows})
    expected = -10 * np.log10(np.square(rebuilt - images / 255).mean(axis=(1, 2, 3)))
    found = [float(one.partition("rebuilt at ")[2].removesuffix(" dB")) for one in said]
    np.testing.assert_allclose(found, expected, atol=0.06)  # of one digit that is shown
    assert len(browser.find_elements(By.CSS_SELECTOR, "#pictures canvas")) == 3 * len(files)
    assert chromium.violations(browser, test_data_dir / "npm") == []


def test_everybody_can_use_it(opened, pictures, test_data_dir):
    choose_all(opened, pictures)
    for scheme, width in itertools.product(("light", "dark"), chromium.WIDTHS.values()):
        chromium.look(opened, width, dark=scheme == "dark")
        assert chromium.violations(opened, test_data_dir / "npm") == []
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        chromium.screenshot(opened, f"page_{width}_{scheme}")


def test_the_keyboard_reaches_everything(opened, pictures):
    choose_all(opened, pictures)
    reached = []
    opened.execute_script("document.activeElement.blur()")
    for _ in range(200):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        name = opened.execute_script(
            "return document.activeElement.id || document.activeElement.tagName"
        )
        if reached and name == reached[0]:
            break
        reached.append(name)
    assert {"files", "folder", "camera", "next", "labelled", "release", "classifier"} <= {*reached}
    assert reached.count("SELECT") == sum(COUNTS.values()) + 1
    before = len(opened.find_elements(By.CSS_SELECTOR, "#pictures > li"))
    opened.find_element(By.CSS_SELECTOR, "#pictures button").send_keys(Keys.ENTER)
    assert len(opened.find_elements(By.CSS_SELECTOR, "#pictures > li")) == before - 1
    assert opened.switch_to.active_element.text == "Remove"

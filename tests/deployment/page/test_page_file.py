"""The page as a file: what it lets a browser do, and what it is not made for."""

import base64
import gzip
import hashlib
import html.parser
import json

import pytest
from support import package_samples as samples

from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device.local_package import Settings
from privynet_jax.deployment.device.package_export import write_package
from privynet_jax.deployment.page import page_file
from privynet_jax.deployment.page.page_file import page_of
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading

SETTINGS = Settings(
    image_size=32,
    shape=(16, 16, 3),
    class_ids={"</script><b>": "ab" * 32, "Bücher": "cd" * 32},
    peaks=(16.0,) * 3,
    mechanism="none",
    unit=1.0,
    reading=Reading(fit="pad"),
    plan_id="1d" * 32,
    release_seed="0f" * 32,
    trial=(0.1, 0.2, 0.3),
    files={},
)
MODULE = "var a=1,b=2,c=3,d=4;export{a as InferenceSession,b as Tensor,c as env,d as default};\n//x"


class Elements(html.parser.HTMLParser):
    """All scripts and styles, with their attributes, and the policy."""

    def __init__(self, text):
        super().__init__()
        self.found, self.policy, self.open = [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.open = tag in ("script", "style")
        if self.open:
            self.found.append([tag, given, ""])
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.found[-1][2] += data


@pytest.fixture
def page(monkeypatch, tmp_path):
    """A page whose runtime is a few bytes."""
    (tmp_path / "module.mjs").write_text(MODULE)
    (tmp_path / "runtime.wasm").write_bytes(b"\0asm")
    there = [tmp_path / "module.mjs", tmp_path / "runtime.wasm"]
    monkeypatch.setattr(page_file, "fetch_members", lambda *_: there)
    made = page_of(SETTINGS, b"local", b"cloud", tmp_path)
    assert page_of(SETTINGS, b"local", b"cloud", tmp_path) == made
    return Elements(made.decode())


def test_only_the_pages_own_scripts_run(page):
    rules = dict(rule.split(" ", 1) for rule in page.policy.split("; "))
    assert rules["default-src"] == rules["connect-src"] == rules["form-action"] == "'none'"

    def digests(kind):
        texts = [text for tag, given, text in page.found if tag == kind and "id" not in given]
        return [hashlib.sha256(text.encode()).digest() for text in texts]

    for name, kind, others in (
        ("script-src", "script", {"'wasm-unsafe-eval'"}),
        ("style-src", "style", set()),
    ):
        wanted = {f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests(kind)}
        assert {*rules[name].split()} == wanted | others
    assert page.found[-1][2].endswith("globalThis.ort={InferenceSession:a,Tensor:b,env:c};")


def test_it_holds_the_networks_and_what_it_needs_of_the_settings(page):
    parts = {given["id"]: text for _, given, text in page.found if "id" in given}
    told = json.loads(parts.pop("settings"))
    assert told["class_ids"] == SETTINGS.class_ids
    assert (told["fit"], told["release_seed"]) == ("pad", SETTINGS.release_seed)
    content = {name: gzip.decompress(base64.b64decode(text)) for name, text in parts.items()}
    assert content == {"local_nn": b"local", "cloud_nn": b"cloud", "runtime": b"\0asm"}


def test_noise_and_deep_pictures_have_no_page(vgg_weights, tmp_path):
    noisy = samples.plan(vgg_weights, Topology(2, (1, 5)), 32, mechanism="gaussian:clip=1,sigma=1")
    with pytest.raises(UserError, match=r"gaussian.*cannot; leave --page out$"):
        write_package(tmp_path / "out", noisy, vgg_weights.params, page_cache=tmp_path)
    deep = samples.plan(vgg_weights, Topology(2, (1, 5)), 32, reading=Reading(4095))
    with pytest.raises(UserError, match=r"more than 8 bits a channel.*; leave --page out$"):
        write_package(tmp_path / "out", deep, vgg_weights.params, page_cache=tmp_path)
    assert not (tmp_path / "out").exists()

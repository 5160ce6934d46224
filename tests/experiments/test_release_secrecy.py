"""No byte of a release, no file name and no field tells a secret of the plan or of the pictures.

`told` searches a folder for all of them in every encoding that a program might have used; the last
tests plant each one, in each place, and show that it is found.
"""

import base64
import dataclasses
import json
import re
import shutil
import socket
import time

import jax
import numpy as np
import pytest
from PIL import Image
from support.handmade_package import HandmadePackage, noise

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.release import release_manifest
from privynet_jax.deployment.release.extract_release import write_release
from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_inputs import find_pictures
from privynet_jax.images.parts import as_float
from privynet_jax.platform.rows.coding import peaks_of
from privynet_jax.selection.secret_draw import class_ids

# Representations are 12 x 12 x 6; no size that a release must tell is 24 or 3.
IMAGE_SIZE, LAYERS, CHANNELS = 24, 3, (77, 3, 120, 42, 101, 17)
CLASSES = ("mother_in_law", "neighbours_car", "x_ray_of_me")
SEED = "5e3f1c0987d2ab4466e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
PLAN_SEED = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdeffedcba9876543210"
DATE = "2021:07:04 10:11:12"
MACHINE = ("alices-laptop", "alice_liddell")
ROWS = 20


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Names that are long enough to be nowhere by chance."""
    monkeypatch.setattr(socket, "gethostname", lambda: MACHINE[0])
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, MACHINE[1])


@dataclasses.dataclass(frozen=True, eq=False)
class WithScales(HandmadePackage):
    """What `represent` multiplies by is told as well."""

    scales: np.ndarray = None


@pytest.fixture(scope="module")
def package(vgg_weights):
    """The real local NN, with the attributes of a package, and its scales."""
    local = jax.jit(local_nn(vgg_weights.params, Topology(LAYERS, CHANNELS)))
    images = np.stack([noise(i, IMAGE_SIZE) for i in range(8)]) / np.float32(255)
    features = np.asarray(local(images))
    scales = np.float32(1 / np.maximum(np.sqrt(np.square(features).mean((0, 1, 2))), 0.01))
    peaks = peaks_of(features.max((0, 1, 2)) * scales) + np.linspace(0.1, 0.7, 6, dtype="f4")
    shape = features.shape[1:]

    def represent(images):
        return np.asarray(local(as_float(images))) * scales

    ids = class_ids(CLASSES, SEED)
    return WithScales(IMAGE_SIZE, shape, ids, peaks, SEED, represent, scales=scales)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs with a date in them, not yet as large as the local NN wants them."""
    folder = tmp_path_factory.mktemp("photos_of_alice")
    exif = Image.Exif()
    exif[0x0132] = DATE
    for index in range(ROWS):
        path = folder / CLASSES[index % 3] / f"DSC{index:05d}_beach.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(index, IMAGE_SIZE)).save(path, exif=exif)
    return folder


@pytest.fixture(params=["float32", "float16", "uint8"])
def release(request, tmp_path, package, photos, monkeypatch):
    monkeypatch.setattr(release_manifest, "_MOST_ROWS", 8)
    pictures = find_pictures(f"folder:{photos}", class_names=CLASSES, labelled=True)
    write_release(tmp_path / "out", package, pictures, dtype=request.param)
    return tmp_path / "out"


# What is so of every kind alike.
ONE_KIND = pytest.mark.parametrize("release", ["float32"], indirect=True)


def as_text(value):
    return str(value).encode()


def encodings(values, dtypes):
    """A vector as text and as arrays of several types, in both byte orders."""
    listed = [str(value) for value in np.asarray(values).tolist()]
    yield from (separator.join(listed).encode() for separator in (", ", ",", " ", "\n", ",\n "))
    for dtype in dtypes:
        for order in "<>":
            yield np.asarray(values).astype(np.dtype(dtype).newbyteorder(order)).tobytes()


def patterns(package, photos, release_dtype):
    """Secret -> what no file and no name may contain."""
    integers = ("u1", "i2", "i4", "i8", "f4", "f8")
    mask = np.isin(np.arange(VGG16.cuts[LAYERS - 1].channels), CHANNELS)
    found = {
        "channels": [
            *encodings(CHANNELS, integers),
            *encodings(sorted(CHANNELS), integers),
            *(mask.tobytes(), np.packbits(mask).tobytes()),
            np.packbits(mask, bitorder="little").tobytes(),
        ],
        "layer": [b"conv2_1", b"relu2_1", b"block2_conv1", b"conv2d", b"VGG", b"vgg"],
        "pixels": [],
        "names": [as_text(photos.name), as_text(photos.parent), b"beach", b"DSC0"],
        "classes": list(map(as_text, CLASSES)),
        "dates": [as_text(DATE), as_text(DATE[:10].replace(":", "-"))],
        "now": [as_text(time.strftime(f"%Y{mark}%m{mark}%d")) for mark in "-:/"],
        "machine": list(map(as_text, MACHINE)),
    }
    found["now"].append(as_text(int(time.time()))[:6])
    for name, vector in (("scales", package.scales), ("peaks", package.peaks)):
        if (name, release_dtype) == ("peaks", "uint8"):
            continue  # which reading bytes needs
        found[name] = list(encodings(vector, ("f2", "f4", "f8")))
        for one in vector:
            found[name] += [np.array(one, t).tobytes() for t in ("<f4", ">f4", "<f8", ">f8")]
            found[name] += [f"{one:.6g}".encode(), f"{1 / one:.6g}".encode()]
    for name, seed in (("release seed", SEED), ("plan seed", PLAN_SEED)):
        raw = bytes.fromhex(seed)
        found[name] = [seed.encode(), seed.upper().encode(), raw, raw[::-1], raw[:16], raw[16:]]
        found[name] += [base64.b64encode(raw)[:40], as_text(int(seed, 16)), seed[:16].encode()]
    for path in photos.rglob("*.png"):
        pixels = np.asarray(Image.open(path))
        for piece in (pixels[0, :4], pixels[12, 12:16]):
            found["pixels"] += [piece.tobytes(), np.float32(piece / 255).tobytes()]
            found["pixels"].append(np.float32(piece).tobytes())
        found["pixels"].append(path.read_bytes()[100:130])
    return found


def numbers_in(value):
    """All numbers in a JSON value, and in its texts and keys."""
    if isinstance(value, dict):
        return {n for item in value.items() for part in item for n in numbers_in(part)}
    if isinstance(value, list):
        return {number for part in value for number in numbers_in(part)}
    if isinstance(value, str):
        return {float(n) for n in re.findall(r"\b\d+\b", value)}
    return {float(value)} if isinstance(value, int | float) else set()


def told(folder, secrets):
    """The secrets that a folder tells, by name."""
    found, numbers = set(), set()
    paths = sorted(folder.rglob("*"))
    for path in paths:
        places = [path.name.encode(), path.read_bytes()]
        if path.suffix == ".json":
            places.append(json.dumps(json.loads(path.read_text())).encode())  # on one line
        found |= {s for s, ps in secrets.items() for p in ps if any(p in place for place in places)}
        numbers |= numbers_in(path.name)
        if path.suffix == ".json":
            numbers |= numbers_in(json.loads(path.read_text()))
        else:
            # A small number is somewhere in any megabyte; so only where a meaning goes with it.
            numbers |= numbers_in(path.read_bytes()[:128].decode("latin-1"))
        if abs(path.stat().st_mtime - time.time()) < 365 * 24 * 3600:
            found.add("file times")
    return found | {
        name for name, n in (("image size", IMAGE_SIZE), ("layers", LAYERS)) if n in numbers
    }


def test_a_release_tells_no_secret(release, package, photos):
    opened = open_release(release)
    assert len(opened) == ROWS
    assert opened.representations.shape == (ROWS, 12, 12, 6)
    assert not told(release, patterns(package, photos, opened.dtype))


def test_nothing_but_the_format_is_there(release):
    names = {"release.json", "labels.npy", *(f"representations-0000{i}.npy" for i in range(3))}
    assert {path.name for path in release.iterdir()} == names
    fields = (
        "version id plan_id rows shape dtype classes rows_per_shard peaks digests several sha256"
    )
    assert set(json.loads((release / "release.json").read_text())) == {*fields.split(), "sha256"}


def test_rows_are_not_in_the_order_of_the_pictures(release, photos, package):
    paths = sorted(photos.rglob("*.png"))
    values = package.represent(np.stack([np.asarray(Image.open(path)) for path in paths]))
    rows = np.float32(open_release(release).representations[:])
    distances = np.abs(rows[:, None] - values[None]).mean((2, 3, 4))
    picture = distances.argmin(axis=1)
    assert sorted(picture) == list(range(ROWS))  # each is there, once
    assert (picture == np.arange(ROWS)).sum() < ROWS / 2
    # Nor are neighbours still neighbours, which a mere rotation would leave.
    assert (np.abs(np.diff(picture)) == 1).sum() < ROWS / 2


@ONE_KIND
def test_ids_of_two_releases_of_one_package_have_nothing_in_common(release, package, tmp_path):
    """Their ids agree in no more digits than chance allows, nor do those of two packages."""
    ids = [json.loads((release / "release.json").read_text())["id"]]
    for index, seed in enumerate([SEED, PLAN_SEED]):
        folder = tmp_path / f"more{index}"
        (folder / "a").mkdir(parents=True)
        for number in range(5):
            Image.fromarray(noise(99 + number)).save(folder / "a" / f"{number}.png")
        pictures = find_pictures(f"folder:{folder}", class_names=CLASSES, labelled=False)
        other = dataclasses.replace(package, release_seed=seed)
        write_release(tmp_path / f"out{index}", other, pictures)
        ids.append(json.loads((tmp_path / f"out{index}" / "release.json").read_text())["id"])
    for one, another in ((0, 1), (0, 2), (1, 2)):
        # 4 of 64 hexadecimal digits agree, on average.
        assert sum(a == b for a, b in zip(ids[one], ids[another], strict=True)) < 20


def planted_in_a_shard(folder, secret):
    path = folder / "representations-00001.npy"
    content = path.read_bytes()
    path.write_bytes(content[:501] + secret + content[501:])


def planted_in_a_field(folder, secret):
    path = folder / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": ["of", secret.decode()]}))


def planted_in_a_key(folder, secret):
    path = folder / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), secret.decode(): 0}))


def planted_in_a_name(folder, secret):
    (folder / "labels.npy").rename(folder / f"l-{secret.decode()[:80]}.npy")


PLACES = [planted_in_a_shard, planted_in_a_field, planted_in_a_key, planted_in_a_name]


@ONE_KIND
@pytest.mark.parametrize("plant", PLACES)
def test_whatever_is_planted_is_found(release, package, photos, tmp_path, plant):
    secrets = patterns(package, photos, "float32")
    assert {"channels", "layer", "release seed", "plan seed", "scales", "peaks"} <= set(secrets)
    for name, variants in secrets.items():
        if plant is not planted_in_a_shard:
            # Bytes, and long text, have no place in a name or in JSON.
            printable = re.compile(rb"[ -.0-~]{1,80}" if plant is planted_in_a_name else rb"[ -~]+")
            variants = [variant for variant in variants if printable.fullmatch(variant)]
            assert variants or name == "pixels"
        for variant in variants[:30]:
            planted = tmp_path / "planted"
            shutil.copytree(release, planted)
            plant(planted, variant)
            assert name in told(planted, {name: secrets[name]}), variant
            shutil.rmtree(planted)


@ONE_KIND
@pytest.mark.parametrize("indent", [None, 0, 1, 4])
def test_numbers_are_found_in_json_however_it_is_laid_out(release, package, photos, indent):
    secrets = patterns(package, photos, "float32")
    path = release / "release.json"
    manifest = json.loads(path.read_text())
    vectors = {"channels": list(CHANNELS), "scales": package.scales.tolist()}
    for name, vector in vectors.items():
        path.write_text(json.dumps({**manifest, "x": {"y": [vector]}}, indent=indent))
        assert name in told(release, {name: secrets[name]})


@ONE_KIND
def test_sizes_and_times_are_found_where_they_are_planted(release, tmp_path):
    manifest = json.loads((release / "release.json").read_text())
    plants = {
        "image size": {"size": IMAGE_SIZE, "text": f"{IMAGE_SIZE} px", "list": [1, [IMAGE_SIZE]]},
        "layers": {"m": LAYERS, "float": float(LAYERS), "text": f"cut after {LAYERS} layers"},
    }
    for secret, variants in plants.items():
        for field, value in variants.items():
            planted = tmp_path / "planted"
            shutil.copytree(release, planted)
            (planted / "release.json").write_text(json.dumps({**manifest, field: value}))
            assert secret in told(planted, {})
            shutil.rmtree(planted)
    np.save(release / "more.npy", np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3)))
    assert {"image size", "file times"} <= told(release, {})

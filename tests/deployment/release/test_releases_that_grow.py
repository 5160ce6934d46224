"""Pictures that come later, and pictures that are withdrawn: by the device's own commands."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image
from support.handmade_package import fill, handmade_package, noise
from support.handmade_release import COUNTS, ROWS

from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.device import release_commands as commands
from privynet_jax.deployment.release.equal_rows import digests_of, read_revocation
from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def device(tmp_path, photos, monkeypatch, package):
    """A place with a package and a first release."""
    monkeypatch.setattr(commands, "open_package", lambda folder, **_: package)
    monkeypatch.chdir(tmp_path)
    extracted(tmp_path, "first")
    return tmp_path


def extracted(place, out, images="photos", **options):
    settings = commands.ExtractSettings(**{"dtype": "float16", **options})
    return commands.extract(place / "package", f"folder:{place / images}", place / out, settings)


def more_photos(place):
    """Two new pictures, one of them in a class of which there was none yet."""
    for name, seed in {"cat/new.png": 1, "dog/late.png": 2}.items():
        Image.fromarray(noise(seed)).save(place / "photos" / name)


def rows(path):
    return {*digests_of(open_release(path).representations)}


def test_only_new_rows_leave(device):
    more_photos(device)
    told = extracted(device, "second", earlier=[device / "first.tar"])
    assert "has 2 rows" in told
    assert f"{ROWS} pictures were released before, or revoked, and left out" in told
    assert not rows(device / "first") & rows(device / "second")
    # In all, what a release of everything has.
    extracted(device, "all")
    assert rows(device / "first") | rows(device / "second") == rows(device / "all")
    data = join_releases([open_release(device / name) for name in ("first", "second")])
    assert len(data) == ROWS + 2
    # The same command again finds it complete.
    before = (device / "second.tar").read_bytes()
    assert "has 2 rows" in extracted(device, "second", earlier=[device / "first.tar"])
    assert (device / "second.tar").read_bytes() == before


def test_a_release_that_nothing_is_left_for(device):
    with pytest.raises(UserError, match="all pictures were released before, or are revoked"):
        extracted(device, "second", earlier=[device / "first"])
    assert not (device / "second").exists()
    assert not list(device.glob(".second*"))


def test_renamed_pictures_and_copies_of_released_ones_stay(device):
    more_photos(device)
    first = device / "photos" / "bird" / "holiday_000.png"
    first.rename(first.with_name("zebra.png"))
    Image.open(first.with_name("zebra.png")).save(first.with_name("a.bmp"))
    # A copy that nobody could tell by its row, which comes before what was released.
    second = device / "photos" / "cat" / "holiday_005.png"
    Image.open(second).save(second.with_name("a.jpg"), quality=95)
    told = extracted(device, "second", earlier=[device / "first"])
    assert "has 2 rows" in told
    assert f"{ROWS + 2} pictures were released before" in told


def test_earlier_releases_of_something_else(device, photos, package, monkeypatch):
    with pytest.raises(UserError, match="rows of float16 and uint8 cannot be compared"):
        extracted(device, "second", dtype="uint8", earlier=[device / "first"])
    extracted(device, "bytes", dtype="uint8")
    # Where nothing of before is found, that is told.
    Image.fromarray(noise(77)).save(photos / "cat" / "only.png")
    Image.fromarray(noise(78)).save(photos / "dog" / "only.png")
    (photos / "bird").rename(device / "bird")
    for path in photos.glob("*/holiday_*"):
        path.rename(device / path.name)
    told = extracted(device, "none", earlier=[device / "first"])
    assert "0 pictures were released before" in told
    assert "this device, its onnxruntime or, with noise, another package gives other" in told
    (device / "bird").rename(photos / "bird")
    for name in ("cat", "dog"):
        (photos / name / "only.png").unlink()
    for number, path in enumerate(sorted(device.glob("holiday_*"))):
        path.rename(photos / ("cat" if number < COUNTS["cat"] else "dog") / path.name)
    shutil.copy(photos / "cat" / "holiday_005.png", photos / "cat" / "x.png")
    more_photos(device)
    assert "has 2 rows" in extracted(device, "more", dtype="uint8", earlier=[device / "bytes"])
    other = dataclasses.replace(package, plan_id="2e" * 32)
    monkeypatch.setattr(commands, "open_package", lambda folder, **_: other)
    with pytest.raises(UserError, match=r"the package is of another plan than .*first"):
        extracted(device, "second", earlier=[device / "first"])


@pytest.fixture
def revoked(device):
    """Three pictures are withdrawn, of which the third is released once more before that."""
    withdrawn = device / "withdrawn"
    withdrawn.mkdir()
    for number in (0, 5, 14):
        (path,) = (device / "photos").glob(f"*/holiday_{number:03d}.png")
        shutil.copy(path, withdrawn / f"{number}.png")
    told = commands.revoke(
        device / "package", f"folder:{withdrawn}", [device / "first"], device / "revocation.json"
    )
    assert "3 rows of 1 releases are revoked; hand" in told
    return device / "revocation.json"


def test_pictures_of_sixteen_bits_are_revoked_as_they_were_released(tmp_path, monkeypatch):
    package = dataclasses.replace(handmade_package(), reading=Reading(4095))
    monkeypatch.setattr(commands, "open_package", lambda folder, **_: package)
    for number, name in enumerate(("bird", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        grey = np.random.default_rng(number).integers(0, 4096, (16, 16)).astype(np.uint16)
        Image.fromarray(grey).save(tmp_path / "photos" / name / "x.png")
    extracted(tmp_path, "first")
    place = f"folder:{tmp_path / 'photos'}"
    told = commands.revoke(tmp_path, place, [tmp_path / "first.tar"], tmp_path / "r.json")
    assert "2 rows of 1 releases" in told
    (tmp_path / "photos" / "cat" / "y.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"y\.png: "):
        commands.revoke(tmp_path, place, [tmp_path / "first.tar"], tmp_path / "s.json")


def test_a_revocation_names_nothing_and_the_cloud_leaves_the_rows_out(device, revoked):
    found = read_revocation(revoked)
    first = open_release(device / "first")
    assert found.releases == (first.id,)
    assert {*found.rows} <= rows(device / "first")
    assert b"holiday" not in revoked.read_bytes()
    data, before = join_releases([first], [found]), join_releases([first])
    assert (len(data), data.revoked.tolist()) == (ROWS - 3, [3])
    assert not {*digests_of(data.representations)} & {*found.rows}
    assert np.bincount(data.labels).tolist() == [count - 1 for count in COUNTS.values()]
    assert data.id != before.id


def test_revoked_rows_that_come_again_are_left_out_and_named(device, revoked):
    found = read_revocation(revoked)
    more_photos(device)
    extracted(device, "second")
    releases = [open_release(device / name) for name in ("first", "second")]
    again = join_releases(releases, [found])
    assert (len(again), again.returned) == (ROWS - 3 + 2, (str(device / "second"),))
    told = extracted(device, "third", revoked=[revoked])
    assert f"has {ROWS - 3 + 2} rows" in told
    data = join_releases([releases[0], open_release(device / "third")], [found])
    assert len(data) == ROWS - 3 + 2


def test_what_cannot_be_revoked_is_one_line(device, revoked):
    fill(device / "others", {"bird": 1}, size=20)
    with pytest.raises(UserError, match=r"1 of 1 pictures are in none of these .*holiday_000\.png"):
        commands.revoke(
            device / "package", f"folder:{device / 'others'}", [device / "first"], device / "x.json"
        )
    assert not (device / "x.json").exists()
    with pytest.raises(UserError, match=r"revocation\.json exists"):
        commands.revoke(
            device / "package", f"folder:{device / 'withdrawn'}", [device / "first"], revoked
        )
    foreign = dataclasses.replace(read_revocation(revoked), plan_id="2e" * 32)
    with pytest.raises(UserError, match="a revocation is of another plan"):
        join_releases([open_release(device / "first")], [foreign])


def test_a_table_of_labels_is_no_picture(device):
    """Where nobody asks for labels, either."""
    paths = sorted((device / "photos").glob("*/*.png"))
    names = [path.relative_to(device / "photos").as_posix() for path in paths]
    lines = ["picture,cat,dog", *(f"{name},1,0" for name in names)]
    (device / "photos" / "labels.csv").write_text("\n".join(lines))
    assert f"has {ROWS} rows" in extracted(device, "none", labelled=False)
    extracted(device, "several")
    assert open_release(device / "several").labels.shape == (ROWS, 2)
    images, gone = f"folder:{device / 'photos'}", device / "gone.json"
    told = commands.revoke(device / "package", images, [device / "several"], gone)
    assert f"{ROWS} rows of 1 releases are revoked" in told
    with pytest.raises(UserError, match=r"--split=train is for splits, and .* has a table"):
        extracted(device, "train", split="train")
    # Copies with other labels are nobody's to choose.
    shutil.copy(paths[0], device / "photos" / "copy.png")
    text, table = "\n".join([*lines, "copy.png,1,1"]), device / "photos" / "labels.csv"
    table.write_text(text)
    assert "1 pictures first that have other labels than their copies" in extracted(device, "x")
    assert not (device / "x.tar").exists()
    table.write_text(text.replace(",dog", ",yak"))
    with pytest.raises(UserError, match=r"the package does not know: yak"):
        extracted(device, "y")

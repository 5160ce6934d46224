"""Releases as the cloud gets them: tars are read in place, foreign ones refused, none unpacked."""

import io
import os
import re
import shutil
import tarfile

import numpy as np
import pytest
from support.handmade_package import fill, handmade_package
from support.handmade_release import write

from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_inbox import open_releases
from privynet_jax.deployment.release.release_tar import write_tar
from privynet_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def release(tmp_path, photos, package):
    """A folder, with its tar beside it."""
    write(package, photos, tmp_path / "release")
    write_tar(tmp_path / "release")
    return tmp_path / "release"


def assert_same(one, other):
    np.testing.assert_array_equal(one.representations[:], other.representations[:])
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.id, one.plan_id, one.classes) == (other.id, other.plan_id, other.classes)


@pytest.mark.parametrize("held_bytes", [0, 2**30])
@pytest.mark.parametrize("made_by", ["extract", "tar", "pax"])
def test_a_tar_is_read_as_its_folder_is(release, made_by, held_bytes):
    path = release.with_suffix(".tar")
    if made_by != "extract":
        path.unlink()
        form = {"tar": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[made_by]
        with tarfile.open(path, "w", format=form) as tar:
            tar.add(release, "./a folder")  # with an entry for the folder itself
    before = sorted(os.listdir(release.parent))
    opened = open_release(path, held_bytes=held_bytes)
    assert_same(opened, open_release(release))
    assert sorted(os.listdir(release.parent)) == before
    some = np.array([21, 0, 5, 5])
    np.testing.assert_array_equal(
        opened.representations[some], open_release(release).representations[some]
    )


def member(name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


FOREIGN = {
    "a path upwards": [member("../release.json")],
    "an absolute path": [member("/tmp/release.json")],
    "a link": [member("r/labels.npy", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "a hard link": [member("r/labels.npy", kind=tarfile.LNKTYPE, link="r/release.json")],
    "a device": [member("r/labels.npy", kind=tarfile.CHRTYPE)],
    "a pipe": [member("r/labels.npy", kind=tarfile.FIFOTYPE)],
    "another file": [member("r/release.json"), member("r/run.sh")],
    "a name in a name": [member("r/release.json/x")],
    "a name twice": [member("r/release.json"), member("r/release.json")],
    "two folders": [member("r/release.json"), member("q/labels.npy")],
    "folders alone": [member("r", kind=tarfile.DIRTYPE)],
}


@pytest.mark.parametrize("case", FOREIGN)
def test_tars_of_something_else_are_refused(tmp_path, case):
    path = tmp_path / "foreign.tar"
    with tarfile.open(path, "w") as tar:
        for info, content in FOREIGN[case]:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match=r"^[^\n]*foreign.tar [^\n]* give a tar that extract wrote"):
        open_release(path)
    assert os.listdir(tmp_path) == ["foreign.tar"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-4000])


def compressed(path):
    content = path.read_bytes()
    path.unlink()
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member("r/release.json", content)[0], io.BytesIO(content))


def with_size(path, size):
    """The first file's, with the checksum of a header that was written so."""
    content = bytearray(path.read_bytes())
    content[124:136] = size
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)


DAMAGED = {
    "cut off": (cut, "cut off|ends before|unexpected end|is missing|ends after"),
    "compressed": (compressed, "is no tar of a release"),
    "nothing": (lambda path: path.write_bytes(b""), "is no tar of a release|files of one folder"),
    "no tar": (lambda path: path.write_bytes(b"x" * 3000), "is no tar of a release"),
    "a size that lies": (lambda path: with_size(path, b"77777777777\0"), ""),
    "a negative size": (lambda path: with_size(path, b"\xff" * 12), ""),
    "another size": (lambda path: with_size(path, b"00000000100\0"), ""),
    "a shard changed": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"NUMPY", b"NUMPX")),
        "npy in .*release.tar does not begin with the expected header: it is damaged",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_tars_are_one_line(release, case):
    damage, message = DAMAGED[case]
    path = release.with_suffix(".tar")
    damage(path)
    with pytest.raises(UserError) as caught:
        open_release(path)
    assert "\n" not in str(caught.value)
    assert re.search(message, str(caught.value))
    assert "release.tar" in str(caught.value)


def test_many_releases_come_in_any_form(tmp_path, package):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name, counts in {"a": {"bird": 3, "cat": 2}, "b": {"cat": 4, "dog": 4}}.items():
        fill(tmp_path / f"photos {name}", counts)
        write(package, tmp_path / f"photos {name}", inbox / name)
    write_tar(inbox / "b")
    shutil.rmtree(inbox / "b")
    found = open_releases([inbox])
    assert [*found] == [str(inbox / "a"), str(inbox / "b.tar")]
    assert [len(release) for release in found.values()] == [5, 8]
    alone = open_releases([inbox / "b.tar", inbox / "a"])
    assert [*alone] == [str(inbox / "b.tar"), str(inbox / "a")]
    for name, release in alone.items():
        assert_same(release, found[name])


def test_what_does_not_belong_together_is_named(tmp_path, photos, package, release):
    (tmp_path / "inbox").mkdir()
    release = shutil.move(release, tmp_path / "inbox" / "a")
    tar = shutil.move(tmp_path / "release.tar", tmp_path / "inbox" / "b.tar")
    with pytest.raises(UserError, match=r"a and .*b.tar are the same release; leave one out"):
        open_releases([tmp_path / "inbox"])
    (tmp_path / "inbox" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"inbox holds notes\.txt, which is no release; give"):
        open_releases([tmp_path / "inbox"])
    with pytest.raises(UserError, match="is no release; give the folder"):
        open_releases([tmp_path / "none"])
    other = handmade_package(depth=4, seed="cd" * 32)
    write(other, photos, tmp_path / "other")
    with pytest.raises(UserError, match=r"other has rows of \(8, 8, 4\), .*a of \(8, 8, 5\)"):
        open_releases([release, tmp_path / "other"])
    object.__setattr__(other, "plan_id", "2e" * 32)
    shutil.rmtree(tmp_path / "other")
    write(other, photos, tmp_path / "other")
    with pytest.raises(UserError, match=r"other is of another plan than .*b\.tar"):
        open_releases([tar, tmp_path / "other"])

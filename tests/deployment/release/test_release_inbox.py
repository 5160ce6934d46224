"""Releases as the cloud gets them: tars are read in place, foreign ones refused, none unpacked."""

import io
import os
import re
import shutil
import tarfile
import time

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
    with pytest.raises(UserError, match=r"^[^\n]*foreign.tar .*; give a tar that extract wrote"):
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


def header(kind, size, name="r/release.json"):
    """Of a member that claims any size; those beyond octal numbers are written as GNU tar does."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(path):
    """A pax header says that a file of a few bytes is a large one."""
    told = b"22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n27 GNU.sparse.size=9000000\n"
    body = told.ljust(512, b"\0")
    path.write_bytes(header(tarfile.XHDTYPE, len(told)) + body + path.read_bytes())


HOSTILE = {
    "a comment that claims all memory": lambda: header(tarfile.XHDTYPE, 2**43),
    "a name that claims all memory": lambda: header(tarfile.GNUTYPE_LONGNAME, 2**43),
    "names of names": lambda: 3000 * header(tarfile.GNUTYPE_LONGNAME, 0),
    "comments on comments": lambda: 3000 * header(tarfile.XHDTYPE, 0),
    "a sparse file": lambda: header(tarfile.GNUTYPE_SPARSE, 0),
    "digits without end": lambda: header(tarfile.XHDTYPE, 2**20) + 2**20 * b"7",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_headers_that_would_take_memory_or_time_are_refused(tmp_path, case):
    path = tmp_path / "hostile.tar"
    path.write_bytes(HOSTILE[case]() + bytes(1024))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"^[^\n]*hostile.tar [^\n]*$"):
        open_release(path)
    assert time.monotonic() - began < 5


def test_what_a_comment_says_of_sizes_does_not_count(release):
    path = release.with_suffix(".tar")
    sparse(path)
    assert_same(open_release(path), open_release(release))


DAMAGED = {
    "cut off": (cut, "ends before '.*' does"),
    "compressed": (compressed, "is no tar of a release"),
    "nothing": (lambda path: path.write_bytes(b""), "is no tar of a release|files of one folder"),
    "no tar": (lambda path: path.write_bytes(b"x" * 3000), "is no tar of a release"),
    "a size that lies": (lambda path: with_size(path, b"77777777777\0"), "ends before '.*' does"),
    "a negative size": (lambda path: with_size(path, b"\xff" * 12), "ends before '.*' does"),
    "another size": (lambda path: with_size(path, b"00000000100\0"), "ends after 64 of"),
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
    with pytest.raises(UserError, match=r"^.*b\.tar and .*a are the same release; leave it out$"):
        open_releases([tmp_path / "inbox"])
    # But what extract leaves side by side is one.
    os.rename(tar, tmp_path / "inbox" / "a.tar")
    assert [*open_releases([tmp_path / "inbox"])] == [str(tmp_path / "inbox" / "a")]
    (tmp_path / "inbox" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"inbox holds notes\.txt, which is no release; give"):
        open_releases([tmp_path / "inbox"])
    with pytest.raises(UserError, match="is no release; give the folder"):
        open_releases([tmp_path / "none"])
    mine = tmp_path / "inbox" / "a"
    for name, options in {"other": {"depth": 4}, "third": {}}.items():
        fill(tmp_path / f"photos {name}", {"bird": 3, "dog": len(name)})
        made = handmade_package(seed="cd" * 32, **options)
        write(made, tmp_path / f"photos {name}", tmp_path / name)
    with pytest.raises(UserError, match=r"^.*other is of another shape of rows than the others; l"):
        open_releases([tmp_path / "other", mine, tmp_path / "third"])
    object.__setattr__(made, "plan_id", "2e" * 32)
    write(made, tmp_path / "photos other", tmp_path / "foreign")
    with pytest.raises(UserError, match="foreign is of another plan than the others; leave it out"):
        open_releases([mine, tmp_path / "third", tmp_path / "foreign"])


def test_all_that_are_refused_are_named_at_once(tmp_path, release, package):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(4):
        fill(tmp_path / f"photos {number}", {"bird": 2 + number, "cat": 2})
        write(package, tmp_path / f"photos {number}", inbox / str(number))
    (inbox / "1" / "labels.npy").write_bytes(b"1")
    (inbox / "2" / "representations-00000.npy").unlink()
    with pytest.raises(UserError) as caught:
        open_releases([inbox])
    text = str(caught.value)
    assert text.startswith(f"2 of 4 releases are refused: {inbox / '1'}, {inbox / '2'}; ")
    assert "labels.npy" in text
    assert "\n" not in text
    # Of some kinds before anything large is read.
    (inbox / "3" / "release.json").write_text("{}")
    (inbox / "4").mkdir()
    with pytest.raises(UserError, match=r"^2 of 5 releases are refused: .*3, .*4; "):
        open_releases([inbox])


def test_a_tar_beside_another_folder_of_its_name_is_no_copy_of_it(tmp_path, release, package):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    shutil.copy(release.with_suffix(".tar"), inbox / "alice.tar")
    fill(tmp_path / "more", {"bird": 3, "cat": 2})
    write(package, tmp_path / "more", inbox / "alice")
    assert [*open_releases([inbox])] == [str(inbox / "alice"), str(inbox / "alice.tar")]


def test_releases_without_labels_are_refused_before_much_is_read(tmp_path, photos, package):
    write(package, photos, tmp_path / "r", labelled=False)
    (tmp_path / "r" / "representations-00000.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"r has no labels, so there is nothing to learn"):
        open_releases([tmp_path / "r"], labelled=True)

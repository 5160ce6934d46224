"""The tar of a release: what the folder holds, the same bytes every time, and no more."""

import os
import shutil
import subprocess
import tarfile

import pytest
from support.handmade_package import contents, fill, handmade_package
from support.handmade_release import write

from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_tar import check_place, handed_over, write_tar
from privynet_jax.errors import UserError


@pytest.fixture
def release(tmp_path):
    fill(tmp_path / "photos", {"bird": 5, "cat": 9, "dog": 8})
    write(handmade_package(), tmp_path / "photos", tmp_path / "alice's holiday")
    return tmp_path / "alice's holiday"


def test_it_unpacks_to_the_release_and_says_nothing_else(release, tmp_path):
    path = write_tar(release)
    assert path == handed_over(release) == tmp_path / "alice's holiday.tar"
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    (tmp_path / "there").mkdir()
    unpack = ["tar", "--extract", f"--file={path}"]
    subprocess.run(unpack, cwd=tmp_path / "there", check=True, timeout=60)
    assert os.listdir(tmp_path / "there") == ["release"]
    assert contents(tmp_path / "there" / "release") == contents(release)
    assert len(open_release(tmp_path / "there" / "release")) == 22
    told = {(m.uid, m.gid, m.uname, m.gname, m.mode, m.mtime, m.type) for m in members}
    assert told == {(0, 0, "", "", 0o644, 315532800, tarfile.REGTYPE)}
    data = path.read_bytes()
    assert b"alice" not in data
    # Again, from a copy with other times and rights, the same bytes.
    copy = tmp_path / "copy"
    shutil.copytree(release, copy)
    for number, file in enumerate(copy.iterdir()):
        os.utime(file, (number, number))
        file.chmod(0o600)
    assert write_tar(copy).read_bytes() == data
    number = path.stat().st_ino
    assert write_tar(release).stat().st_ino == number


def test_what_an_editor_left_is_not_in_it(release):
    before = write_tar(release).read_bytes()
    handed_over(release).unlink()
    (release / ".release.json.swp").write_text("alice on her machine")
    assert write_tar(release).read_bytes() == before


def test_a_place_that_is_taken_is_told_before_anything_is_done(release, tmp_path, monkeypatch):
    (tmp_path / "new.tar").write_text("mine")
    with pytest.raises(
        UserError, match=r"new\.tar is there already; move it away, or give another"
    ):
        check_place(tmp_path / "new")
    check_place(release)
    monkeypatch.chdir(release)
    assert handed_over(type(release)(".")) == handed_over(release)


def test_what_is_there_is_not_replaced(release):
    handed_over(release).write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already, and is not what"):
        write_tar(release)
    assert handed_over(release).read_bytes() == b"mine"

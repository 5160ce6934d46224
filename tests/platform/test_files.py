"""Files appear whole or not at all."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from privynet_jax.errors import UserError
from privynet_jax.images.parts import load_parts
from privynet_jax.platform import files
from privynet_jax.platform.files import is_remote, write_atomically, write_shared


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ("é\nsecond line\n", b"\xc3\xa9\nsecond line\n"),
        (b"\x00\r\n\xff", b"\x00\r\n\xff"),
        ("", b""),
    ],
)
def test_a_file_is_made_and_replaced_whole(tmp_path, content, stored):
    path = tmp_path / "file.json"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == stored
        assert os.listdir(tmp_path) == [path.name]
        # The next round replaces something longer, of which nothing may stay.
        path.write_bytes(b"an older and longer content" * 100)


def test_everybody_may_read_and_only_the_owner_write(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "shared")
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("write", [write_atomically, lambda path, _: write_shared(path, [b"x"])])
def test_a_full_disk_names_the_file(tmp_path, monkeypatch, write):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*result\.json'") as raised:
        write(tmp_path / "result.json", "x")
    assert raised.value.filename == str(tmp_path / "result.json")


# While writing, when it must reach the disk, and at the end; a full disk and an impatient person.
@pytest.mark.parametrize("failing", ["fsync", "chmod", "replace", "fdopen"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, failing, error, existed):
    path = tmp_path / "file"
    if existed:
        path.write_text("old")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([path.name] if existed else [])
    if existed:
        assert path.read_text() == "old"


def test_a_temporary_file_is_hidden_and_beside_the_file(tmp_path, monkeypatch):
    # Beside it, because a rename is atomic within one file system only; hidden, so that a work
    # directory which holds nothing else still counts as empty.
    seen = []
    replace = os.replace

    def spy(source, target):
        seen.append(os.path.split(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_atomically(tmp_path / "file", "x")
    [(folder, name)] = seen
    assert folder == str(tmp_path)
    assert name.startswith(".file.")


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "file"
    contents = {b"a" * 300_000, b"b" * 300_000}
    write_atomically(path, min(contents))
    done = threading.Event()

    def write():
        for _ in range(20):
            for content in contents:
                write_atomically(path, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set() or not reads:
        assert path.read_bytes() in contents
        reads += 1
    writer.join()


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "file", "x")
    assert not list(tmp_path.iterdir())


def names(folder):
    return sorted(os.listdir(folder))


def test_a_shared_file_is_made_and_replaced_whole(tmp_path):
    path = epath.Path(tmp_path) / "shard"
    for chunks in ([b"ab", bytearray(b"c"), np.arange(3, dtype=np.uint8)], [b""]):
        write_shared(path, chunks)
        assert path.read_bytes() == b"".join(map(bytes, chunks))
        assert names(tmp_path) == ["shard"]
    assert (tmp_path / "shard").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_two_writers_may_stay(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError("this file system has no links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for content in (b"first", b"second"):
        write_shared(epath.Path(tmp_path) / "shard", [content], replace=False)
    assert (tmp_path / "shard").read_bytes() == b"first"
    assert names(tmp_path) == ["shard"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_shared_file_that_was_there(tmp_path, error):
    (tmp_path / "shard").write_text("old")

    def chunks():
        yield b"half"
        raise error

    with pytest.raises(type(error)):
        write_shared(epath.Path(tmp_path) / "shard", chunks())
    assert names(tmp_path) == ["shard"]
    assert (tmp_path / "shard").read_text() == "old"


def test_a_file_in_a_bucket(bucket):
    assert is_remote(bucket)
    for replace in (True, False):
        write_shared(bucket / "shard", [b"ab", b"c"], replace=replace)
        assert (bucket / "shard").read_bytes() == b"abc"


def test_only_places_with_a_scheme_are_remote(tmp_path):
    assert not is_remote(epath.Path(tmp_path))
    assert not is_remote(Path("gs/bucket"))


# Written by a process that is killed while it writes.
KILLED = """
import os, signal, sys
from etils import epath
from privynet_jax.platform.files import write_shared

def chunks():
    yield b"half"
    os.kill(os.getpid(), signal.SIGKILL)

write_shared(epath.Path(sys.argv[1]) / "shard", chunks())
"""


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode < 0
    [left] = names(tmp_path)
    for name, age in (
        (left, 25 * 3600),
        (".shard.privynet-young", 3700),
        ("shard", 10**7),
        (".o.p", 10**7),
    ):
        (tmp_path / name).touch()
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    files.remove_abandoned(tmp_path)
    assert names(tmp_path) == [".o.p", ".shard.privynet-young", "shard"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError("this file system has no links")

    def write(path):
        (tmp_path / "rows.csv").write_text("mine")  # while a command runs
        path.write_text("predicted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for number in (1, 2):
        assert files.write_new(tmp_path / "rows.csv", write).name == f"rows-{number}.csv"
    assert files.write_new(tmp_path / "new", lambda p: p.write_text("n")) == tmp_path / "new"
    assert names(tmp_path) == ["new", "rows-1.csv", "rows-2.csv", "rows.csv"]
    assert (tmp_path / "rows.csv").read_text() == "mine"
    assert (tmp_path / "rows-2.csv").read_text() == "predicted"


def test_a_private_folder_goes_with_its_process(tmp_path):
    (tmp_path / ".audit.privynet-killed").mkdir()
    (tmp_path / "audit-20261128").mkdir()
    day = time.time() - 25 * 3600
    with files.private_folder(tmp_path, "audit") as folder:
        for path in (folder, *tmp_path.iterdir()):
            os.utime(path, (day, day))
        with files.private_folder(tmp_path, "audit"):  # which leaves alone what is in use
            assert folder.stat().st_mode & 0o777 == 0o700
            assert not (tmp_path / ".audit.privynet-killed").exists()
    assert names(tmp_path) == ["audit-20261128"]


def test_a_file_to_write_needs_a_folder(tmp_path):
    assert files.checked_file("out", str(tmp_path / "new.csv")) == tmp_path / "new.csv"
    for wrong in (tmp_path, tmp_path / "none" / "new.csv"):
        with pytest.raises(UserError, match=f"--out={wrong} must be a file in a folder that"):
            files.checked_file("out", str(wrong))


def test_paths_begin_with_homes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expanded("plan", "~/plan.json") == tmp_path / "plan.json"
    with pytest.raises(UserError, match="--out=~nobody-has-this-name/x begins with an unknown ho"):
        files.checked_file("out", "~nobody-has-this-name/x")
    with pytest.raises(UserError, match=r"^~nobody-has-this-name/x begins with"):
        load_parts("folder:~nobody-has-this-name/x", data_dir=None)


def test_a_full_temporary_folder_is_an_error_and_no_crash(monkeypatch):
    monkeypatch.setattr(files, "_MOST_BYTES_IN_MEMORY", 0)
    assert files.allocate((2, 3, 3, 3)).shape == (2, 3, 3, 3)

    def full(descriptor, start, length):
        raise OSError(errno.ENOSPC, f"no room for {length} bytes")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="no room for 54 bytes"):
        files.allocate((2, 3, 3, 3))

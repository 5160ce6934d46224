"""Files appear whole or not at all."""

import os
import threading

import pytest

from privynet_jax.files import write_atomically


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
    assert name.startswith(".file-")


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

"""Fetching: members of a tiny wheel made here, and files from a server of this machine."""

import hashlib
import http.server
import subprocess
import tarfile
import threading
import zipfile

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform import fetching
from privynet_jax.platform.digests import verify_sha256
from privynet_jax.platform.fetching import (
    PinnedNpm,
    PinnedWheel,
    PublishedFile,
    fetch_file,
    fetch_members,
)

WHEEL = PinnedWheel("tiny", "1.2")
CONTENT = {"tiny/a.txt": b"first", "tiny/deep/b.txt": b"second"}
MEMBERS = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}


def write_wheel(folder, content):
    path = folder / "tiny-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def downloads(monkeypatch):
    """Replaces the download by writing a small wheel; returns the list of its calls."""
    calls = []

    def download(wheel, folder):
        calls.append(wheel)
        return write_wheel(folder, CONTENT)

    monkeypatch.setattr(fetching, "_download", download)
    return calls


def test_members_are_fetched_once_and_in_order(downloads, tmp_path):
    cache = tmp_path / "new" / "cache"
    paths = fetch_members(WHEEL, MEMBERS, cache)
    assert [path.read_bytes() for path in paths] == [b"first", b"second"]
    assert fetch_members(WHEEL, dict(reversed(MEMBERS.items())), cache) == paths[::-1]
    assert downloads == [WHEEL]
    # Neither the archive nor half-written files stay behind.
    kept = [path for path in (cache / "tiny-1.2").rglob("*") if path.is_file()]
    assert sorted(kept) == sorted(paths)
    assert paths[1] == cache / "tiny-1.2" / "tiny" / "deep" / "b.txt"


def test_members_of_one_base_name_are_kept_apart(monkeypatch, tmp_path):
    content = {"tiny/a.txt": b"one", "tiny/deep/a.txt": b"other"}
    monkeypatch.setattr(fetching, "_download", lambda wheel, folder: write_wheel(folder, content))
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert [path.read_bytes() for path in fetch_members(WHEEL, sums, tmp_path)] == [
        b"one",
        b"other",
    ]


def test_only_missing_members_cause_a_download(downloads, tmp_path):
    first = dict([next(iter(MEMBERS.items()))])
    fetch_members(WHEEL, first, tmp_path)
    fetch_members(WHEEL, MEMBERS, tmp_path)
    fetch_members(WHEEL, MEMBERS, tmp_path)
    assert len(downloads) == 2


def test_absent_member_is_named(downloads, tmp_path):
    with pytest.raises(UserError, match=r"tiny==1\.2 holds no file tiny/c\.txt"):
        fetch_members(WHEEL, {"tiny/c.txt": "0" * 64}, tmp_path)


def test_wrong_checksum_names_the_file_and_both_sums(downloads, tmp_path):
    with pytest.raises(UserError, match=r"a\.txt is damaged") as error:
        fetch_members(WHEEL, {"tiny/a.txt": "0" * 64}, tmp_path)
    assert "0" * 64 in str(error.value)
    assert MEMBERS["tiny/a.txt"] in str(error.value)


def test_damaged_cache_is_refused_without_a_download(downloads, tmp_path):
    [path, _] = fetch_members(WHEEL, MEMBERS, tmp_path)
    path.write_bytes(b"fir")
    with pytest.raises(UserError, match="delete the file and run again"):
        fetch_members(WHEEL, MEMBERS, tmp_path)
    path.unlink()
    assert fetch_members(WHEEL, MEMBERS, tmp_path)[0].read_bytes() == b"first"


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_download_is_a_user_error_and_keeps_nothing(monkeypatch, tmp_path, damage):
    def download(wheel, folder):
        path = write_wheel(folder, {"tiny/a.txt": bytes(range(256))})
        data = bytearray(path.read_bytes())
        data[100] ^= 0xFF  # inside the compressed member, past its 40 bytes of header
        path.write_bytes(data[:-30] if damage == "cut" else data)
        return path

    monkeypatch.setattr(fetching, "_download", download)
    with pytest.raises(UserError, match=r"the download of tiny==1\.2 is damaged") as error:
        fetch_members(WHEEL, {"tiny/a.txt": "0" * 64}, tmp_path)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "tiny-1.2").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_user_error_of_this_room(downloads, tmp_path):
    (tmp_path / "tiny-1.2").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"tiny-1\.2"):
        fetch_members(WHEEL, MEMBERS, tmp_path)


def test_the_caller_names_the_remedy(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"first")
    verify_sha256(path, MEMBERS["tiny/a.txt"])
    with pytest.raises(UserError, match=r"photo\.png is damaged.*; reinstall it$"):
        verify_sha256(path, "0" * 64, remedy="reinstall it")


def test_no_network_says_what_to_do_and_keeps_nothing(monkeypatch, tmp_path):
    def no_network(command, **_):
        assert command[-1] == "tiny==1.2"
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "Retrying\nERROR: no route to host\n")

    monkeypatch.setattr(fetching.subprocess, "run", no_network)
    with pytest.raises(UserError, match=r"cannot download tiny==1\.2 .*no route to host") as error:
        fetch_members(WHEEL, MEMBERS, tmp_path)
    assert "copy that cache from another machine" in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "tiny-1.2").iterdir()) == []


def test_where_pip_is_missing_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tiny==1\.2 is fetched by pip.*ensurepip, or uv pip inst"):
        fetch_members(WHEEL, MEMBERS, tmp_path)


def test_packages_of_npm_are_fetched_alike(monkeypatch, tmp_path):
    package = PinnedNpm("tiny", "1.2")

    def pack(command, **_):
        assert command[0] == "/bin/npm"
        assert {"pack", "--ignore-scripts", "tiny@1.2"} < {*command}
        [place] = [word.partition("=")[2] for word in command if "--pack-destination" in word]
        for name, data in CONTENT.items():
            path = tmp_path / "made" / "package" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with tarfile.open(f"{place}/tiny-1.2.tgz", "w:gz") as archive:
            archive.add(tmp_path / "made" / "package", "package")
        return subprocess.CompletedProcess(command, 0, "tiny-1.2.tgz\n", "")

    monkeypatch.setattr(fetching.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(fetching.subprocess, "run", pack)
    paths = fetch_members(package, MEMBERS, tmp_path)
    assert [path.read_bytes() for path in paths] == [*CONTENT.values()]
    with pytest.raises(UserError, match=r"tiny@1\.2 holds no file tiny/c\.txt"):
        fetch_members(package, {"tiny/c.txt": "0" * 64}, tmp_path)


def test_why_npm_failed_is_told(monkeypatch, tmp_path):
    told = "npm error code E404\nnpm error no such version\nnpm error A complete log of this run\n"
    monkeypatch.setattr(fetching.shutil, "which", lambda name: f"/bin/{name}")
    done = subprocess.CompletedProcess([], 1, "", told)
    monkeypatch.setattr(fetching.subprocess, "run", lambda command, **_: done)
    with pytest.raises(UserError, match=r"tiny@1\.2 .*npm error no such version \("):
        fetch_members(PinnedNpm("tiny", "1.2"), MEMBERS, tmp_path)


def test_where_npm_is_missing_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"tiny@1\.2 is fetched by npm.*install Node\.js"):
        fetch_members(PinnedNpm("tiny", "1.2"), MEMBERS, tmp_path)


SERVED = bytes(range(256)) * 9000  # more than two chunks


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with SERVED, or with what goes wrong on real networks."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/missing.h5":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(SERVED)))
        self.end_headers()
        sent = SERVED[:5000] if self.path == "/cut.h5" else SERVED
        self.wfile.write(sent[::-1] if self.path == "/other.h5" else sent)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def published(server, name):
    url = f"http://127.0.0.1:{server.server_port}/{name}"
    return PublishedFile(url, hashlib.md5(SERVED).hexdigest())


def test_a_file_is_fetched_once(server, tmp_path):
    for _ in range(2):
        path = fetch_file(published(server, "good.h5"), tmp_path / "a" / "b")
        assert path == tmp_path / "a" / "b" / "good.h5"
        assert path.read_bytes() == SERVED
    assert server.asked.count("/good.h5") == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["cut.h5", "other.h5"])
def test_another_md5_is_refused_and_nothing_kept(server, name, tmp_path):
    with pytest.raises(UserError, match=rf"{name} has MD5 [0-9a-f]{{32}}, but .* is published"):
        fetch_file(published(server, name), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_copy_is_refused_by_name(server, tmp_path):
    (tmp_path / "good.h5").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"good\.h5 has MD5 .*; delete that file and run again"):
        fetch_file(published(server, "good.h5"), tmp_path)


def test_what_cannot_be_reached_says_where_a_copy_belongs(server, tmp_path):
    with pytest.raises(UserError, match=r"404: Not Found; connect .* put it at .*missing\.h5"):
        fetch_file(published(server, "missing.h5"), tmp_path)
    nobody = PublishedFile("http://127.0.0.1:1/a.h5", "0" * 32)
    with pytest.raises(UserError, match="cannot download http://127"):
        fetch_file(nobody, tmp_path)
    assert list(tmp_path.iterdir()) == []

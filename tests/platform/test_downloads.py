"""Downloads against a server of this machine: verified, kept, and never left half."""

import hashlib
import http.server
import threading

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform.downloads import PublishedFile, fetch_file

CONTENT = bytes(range(256)) * 9000  # more than two chunks


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with CONTENT, or with what goes wrong on real networks."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/missing.h5":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        sent = CONTENT[:5000] if self.path == "/cut.h5" else CONTENT
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
    return PublishedFile(url, hashlib.md5(CONTENT).hexdigest())


def test_a_file_is_fetched_once(server, tmp_path):
    for _ in range(2):
        path = fetch_file(published(server, "good.h5"), tmp_path / "a" / "b")
        assert path == tmp_path / "a" / "b" / "good.h5"
        assert path.read_bytes() == CONTENT
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

"""Releases for one reader: whole, or not at all."""

import itertools

import pytest
from support.handmade_package import fill, handmade_package
from support.handmade_release import write

from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_inbox import open_releases
from privynet_jax.deployment.release.release_tar import write_sealed, write_tar
from privynet_jax.deployment.trust import sealing
from privynet_jax.deployment.trust.keys import make_keys
from privynet_jax.deployment.trust.sealing import seal, unsealed
from privynet_jax.errors import UserError

ID = "ab" * 32
CONTENT = bytes(range(250)) * 5  # no multiple of a piece


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return [make_keys(folder / name) for name in ("cloud", "other")]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(sealing, "_PIECE", 512)


def written(path, key, content=CONTENT):
    seal(path, [content[:7], content[7:900], content[900:]], ID, key.public)
    return path


def opened(path, key):
    return b"".join(unsealed(path, key))


def pieces_of(path):
    """The first line, and the pieces with their lengths."""
    line, _, rest = path.read_bytes().partition(b"\n")
    found = []
    while rest:
        end = 8 + int.from_bytes(rest[:8], "little")
        found.append(rest[:end])
        rest = rest[end:]
    return line + b"\n", found


@pytest.mark.parametrize("content", [CONTENT, CONTENT[:512], CONTENT[:1024], b"x", b""])
def test_the_reader_alone_gets_what_was_sealed(tmp_path, keys, content):
    cloud, other = keys
    path = written(tmp_path / "r.sealed", cloud, content)
    assert opened(path, cloud) == content
    assert len(pieces_of(path)[1]) == max(1, -(-len(content) // 512))
    with pytest.raises(UserError, match=r"is for who has the key .*, and yours is"):
        opened(path, other)
    assert content[:40] not in path.read_bytes() or len(content) < 2


def test_no_two_are_the_same_and_what_others_put_there_stays(tmp_path, keys):
    cloud, other = keys
    first, second = (written(tmp_path / f"{n}.sealed", cloud) for n in range(2))
    assert first.read_bytes() != second.read_bytes()
    # What an earlier call left, damaged or not, is written anew.
    first.write_bytes(first.read_bytes()[:400])
    written(first, cloud)
    assert opened(first, cloud) == CONTENT
    before = first.read_bytes()
    with pytest.raises(UserError, match="is there already, and is of something else"):
        written(first, other)
    assert first.read_bytes() == before
    (tmp_path / "link.sealed").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is there already"):
        written(tmp_path / "link.sealed", cloud)


def test_pieces_are_bound_to_their_place(tmp_path, keys):
    cloud, _ = keys
    path, twin = (written(tmp_path / f"{n}.sealed", cloud) for n in range(2))
    line, pieces = pieces_of(path)
    assert len(pieces) == 3
    others = pieces_of(twin)[1]
    orders = [order for n in range(4) for order in itertools.product(pieces, repeat=n)]
    assert len(orders) == 40
    for order in orders:
        path.write_bytes(line + b"".join(order))
        if list(order) == pieces:
            assert opened(path, cloud) == CONTENT
            continue
        with pytest.raises(UserError, match="was changed or cut off on the way; copy it again"):
            opened(path, cloud)
    # Of the same content to the same reader: nobody can tell, and nobody need.
    path.write_bytes(line + pieces[0] + others[1] + pieces[2])
    assert opened(path, cloud) == CONTENT


@pytest.mark.parametrize("length", [0, 1, 2**24, 2**24 + 1025, 2**63])
def test_lengths_that_lie(tmp_path, keys, length):
    path = written(tmp_path / "r.sealed", keys[0])
    line, pieces = pieces_of(path)
    lied = length.to_bytes(8, "little") + pieces[1][8:]
    path.write_bytes(line + pieces[0] + lied + pieces[2])
    with pytest.raises(UserError, match="was changed or cut off on the way"):
        opened(path, keys[0])


def test_any_byte_that_is_changed_and_any_end(tmp_path, keys):
    cloud, _ = keys
    path = written(tmp_path / "r.sealed", cloud)
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"^[^\n]*r.sealed[^\n]*$"):
            opened(path, cloud)
        path.write_bytes(whole[:place])
        with pytest.raises(UserError, match=r"^[^\n]*r.sealed[^\n]*$"):
            opened(path, cloud)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[[[\n", b'{"version": 2}\n', b"\xff" * 5000])
def test_files_that_are_no_sealed_release(tmp_path, keys, content):
    (tmp_path / "r.sealed").write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*r.sealed is no sealed release[^\n]*extract"):
        opened(tmp_path / "r.sealed", keys[0])


def test_who_opens_one_as_a_release_is_told_how(tmp_path, keys):
    path = written(tmp_path / "r.sealed", keys[0])
    with pytest.raises(UserError, match=r"is encrypted; give the folder .* experiments.unseal"):
        open_release(path)
    with pytest.raises(UserError, match="is no release"):
        open_release(tmp_path / "none.sealed")


def test_beside_the_folder_it_was_made_of_it_is_passed_over(tmp_path, keys):
    fill(tmp_path / "photos", {"bird": 5, "cat": 9, "dog": 8})
    write(handmade_package(), tmp_path / "photos", tmp_path / "box" / "mine")
    path = write_sealed(tmp_path / "box" / "mine", keys[0].public)
    assert path == tmp_path / "box" / "mine.sealed"
    assert [*open_releases([tmp_path / "box"])] == [str(tmp_path / "box" / "mine")]
    path.rename(tmp_path / "box" / "other.sealed")
    with pytest.raises(UserError, match=r"other.sealed is encrypted"):
        open_releases([tmp_path / "box"])
    assert b"".join(unsealed(tmp_path / "box" / "other.sealed", keys[0])) == (
        write_tar(tmp_path / "box" / "mine").read_bytes()
    )

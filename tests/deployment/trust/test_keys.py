"""Key files: what is written, what another implementation makes of them, what is refused."""

import shutil
import stat
import subprocess

import pytest

from privynet_jax.deployment.trust import keys
from privynet_jax.deployment.trust.keys import make_keys, read_private, read_public
from privynet_jax.errors import UserError


def test_what_is_made_is_read_and_the_private_half_is_private(tmp_path):
    key = make_keys(tmp_path / "clinic")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clinic.key", "clinic.pub"]
    assert stat.S_IMODE((tmp_path / "clinic.key").stat().st_mode) == 0o600
    public = read_public(tmp_path / "clinic.pub")
    assert public == key.public == read_private(tmp_path / "clinic.key").public
    assert (
        str(public)
        == f"signs as {public.signing[:20]}, and reads what is for " + (public.sealing[:20])
    )
    # Nothing of the private half is in the other file, nor in what is printed of it.
    for pair in (key.signing, key.sealing):
        secret = pair.private_bytes_raw()
        assert secret not in (tmp_path / "clinic.pub").read_bytes()
        assert secret.hex() not in repr(key)
    assert make_keys(tmp_path / "other").public != public


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no OpenSSL here")
def test_openssl_reads_both_blocks_and_agrees(tmp_path):
    key = make_keys(tmp_path / "clinic")
    blocks = (tmp_path / "clinic.key").read_bytes().split(b"-----BEGIN")[1:]
    for block, raw in zip(blocks, (key.public.signing, key.public.sealing), strict=True):
        command = ["openssl", "pkey", "-pubout", "-outform", "DER"]
        told = subprocess.run(command, input=b"-----BEGIN" + block, capture_output=True, check=True)
        assert told.stdout[-32:].hex() == raw


def test_nothing_is_replaced(tmp_path):
    for name in ("clinic.pub", "clinic.key"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name} exists already"):
            make_keys(tmp_path / "clinic")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def other_pairs(tmp_path):
    """The pairs the wrong way round."""
    content = (tmp_path / "clinic.pub").read_text()
    first, second = (f"-----BEGIN{block}" for block in content.split("-----BEGIN")[1:])
    return second + first


BAD = {
    "the private half": (lambda place: (place / "clinic.key").read_text(), "a private key; give"),
    "a password": (
        lambda place: (place / "clinic.key").read_text().replace("PRIV", "ENCRYPTED PRIV"),
        "a private key with a password",
    ),
    "nothing": (lambda place: "", "no pair of keys; give the .pub"),
    "one block": (lambda place: (place / "clinic.pub").read_text()[:120], "no pair of keys"),
    "other pairs": (other_pairs, "keys of another kind"),
    "damage": (
        lambda place: (place / "clinic.pub").read_text().replace("MC", "mc"),
        "no key that can be read",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_no_public_key(tmp_path, case):
    make_keys(tmp_path / "clinic")
    make, message = BAD[case]
    (tmp_path / "bad.pub").write_text(make(tmp_path))
    with pytest.raises(UserError, match=rf"^[^\n]*bad.pub holds {message}[^\n]*$"):
        read_public(tmp_path / "bad.pub")


def test_a_private_key_that_is_none(tmp_path):
    make_keys(tmp_path / "clinic")
    with pytest.raises(UserError, match=r"clinic.pub holds a public key; give the .key"):
        read_private(tmp_path / "clinic.pub")
    with pytest.raises(UserError, match=r"none.key cannot be read"):
        read_private(tmp_path / "none.key")


def test_without_the_package_it_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cryptography.exceptions", None)
    with pytest.raises(UserError, match=r"cryptography package.*pip install.*leave out"):
        keys.library("exceptions")

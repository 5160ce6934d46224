"""Signatures: what they vouch for, whatever somebody does who has not the key."""

import hashlib
import json
import os
import shutil
import stat
import tarfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from support.handmade_classifier import handmade_classifier
from support.handmade_package import fill, handmade_package
from support.handmade_release import write

from privynet_jax.deployment.cloud.classifier import open_classifier, save_classifier
from privynet_jax.deployment.release.equal_rows import Revocation, read_revocation
from privynet_jax.deployment.release.release_folder import open_release, sign_release
from privynet_jax.deployment.release.release_inbox import open_releases
from privynet_jax.deployment.release.release_tar import write_tar
from privynet_jax.deployment.trust import signatures
from privynet_jax.deployment.trust.keys import make_keys
from privynet_jax.deployment.trust.signatures import ANYBODY, KINDS, Trust, beside, read_trust, sign
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sealed

NOBODY = Trust()


def whom(key, kinds=KINDS, **settings):
    return Trust({kind: frozenset([key.public.signing]) for kind in kinds}, **settings)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two, by name."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_keys(folder / name) for name in ("mine", "other")}


@pytest.fixture
def trust(keys):
    return whom(keys["mine"])


@pytest.fixture
def signed(tmp_path, keys):
    """A release with its tar, and a classifier, both signed, with what opens them."""
    fill(tmp_path / "photos", {"bird": 5, "cat": 9, "dog": 8})
    write(handmade_package(), tmp_path / "photos", tmp_path / "release")
    sign_release(tmp_path / "release", keys["mine"])
    write_tar(tmp_path / "release")
    save_classifier(tmp_path / "classifier", handmade_classifier((4, 4, 3)), keys["mine"])
    return tmp_path


def opened(place, trust):
    """All that is signed there, opened."""
    return [
        open_release(place / "release", trust=trust),
        open_release(place / "release.tar", trust=trust),
        open_classifier(place / "classifier", trust=trust),
    ]


def refused(place, trust, message):
    for open_one in (
        lambda: open_release(place / "release", trust=trust),
        lambda: open_releases([place / "release"], trust=trust),
        lambda: open_classifier(place / "classifier", trust=trust),
    ):
        with pytest.raises(UserError, match=rf"^[^\n]*{message}[^\n]*$"):
            open_one()


def test_what_somebody_trusted_signed_is_taken(signed, trust, keys):
    folder, tar, _ = opened(signed, trust)
    assert folder.signer == tar.signer == keys["mine"].public.signing
    [release] = open_releases([signed / "release", signed / "release.tar"], trust=trust).values()
    assert release.signer == folder.signer
    assert opened(signed, ANYBODY)[0].signer == ""
    opened(signed, Trust(trust.keys, unsigned=True))


def test_the_signature_is_what_the_standard_says(signed, keys):
    path = signed / "classifier" / "classifier.json"
    told = json.loads(beside(path).read_text())
    assert set(told) == {"version", "key", "signature", "sha256"}
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(told["key"]))
    message = b"privynet_jax classifier\n" + path.read_bytes()
    public.verify(bytes.fromhex(told["signature"]), message)
    assert told["key"] == keys["mine"].public.signing
    # Ed25519 draws nothing: the same release is the same bytes.
    before = (signed / "release" / "release.json.signature").read_bytes()
    sign_release(signed / "release", keys["mine"])
    assert (signed / "release" / "release.json.signature").read_bytes() == before


def test_a_signature_is_as_private_as_what_it_signs(tmp_path, keys):
    for mode in (0o600, 0o644):
        path = tmp_path / f"{mode}.json"
        path.write_text("{}")
        path.chmod(mode)
        sign(path, "package", keys["mine"])
        assert stat.S_IMODE(beside(path).stat().st_mode) == mode
    sign(tmp_path / "none", "package", None)
    assert not beside(tmp_path / "none").exists()


def test_somebody_else_s_signature(signed, keys):
    refused(signed, whom(keys["other"]), "is signed by .* trusted are")
    refused(signed, NOBODY, "is signed by .*, and trusted are none; give --trusted=FILE.pub")
    # Nor does --unsigned take what a stranger signed, where somebody is trusted.
    theirs = whom(keys["other"], unsigned=True)
    refused(signed, theirs, "is signed by")


def test_what_nobody_signed(signed, trust):
    for path in signed.glob("*/*.signature"):
        path.unlink()
    refused(signed, trust, "is not signed; ask whoever made it to sign it, or give --unsigned")
    refused(signed, NOBODY, "is not signed")
    for anything in (ANYBODY, Trust(trust.keys, unsigned=True)):
        opened(signed.parent / signed.name, anything)


def resealed(path, **changes):
    """Changes a file that carries its own checksum, as anybody can."""
    content = json.loads(path.read_text())
    content.pop("sha256")
    path.write_text(sealed(content | changes))


def test_whatever_is_changed_is_noticed(signed, trust, keys):
    """Even if all checksums are made anew."""
    resealed(signed / "release" / "release.json", plan_id="2e" * 32)
    resealed(signed / "classifier" / "classifier.json", plan_id="2e" * 32)
    refused(signed, trust, "is not what .* signed; it was changed since then")
    # Nor can the key's name be put under it.
    for path in (signed / "release" / "release.json", signed / "classifier" / "classifier.json"):
        sign(path, "release" if "release" in path.name else "classifier", keys["other"])
        resealed(beside(path), key=keys["mine"].public.signing)
    refused(signed, trust, "is not what .* signed")
    for path in signed.glob("*/*.signature"):
        resealed(path, key="zz" * 32)
    refused(signed, trust, "is no signature")


def test_rows_of_a_signed_release_cannot_be_exchanged(signed, tmp_path, trust, keys):
    """By the rows of another release that carry the same id, either."""
    fill(tmp_path / "others", {"bird": 5, "cat": 9, "dog": 8}, size=40)
    write(handmade_package(), tmp_path / "others", tmp_path / "another")
    name, identity = "representations-00000.npy", open_release(signed / "release").id
    content = (tmp_path / "another" / name).read_bytes()[:-32]
    digest = hashlib.sha256(f"{identity}\n{name}\n".encode() + content).digest()
    (signed / "release" / name).write_bytes(content + digest)
    with pytest.raises(UserError, match=r"is not the one that release.json tells of"):
        open_release(signed / "release", trust=trust)


def test_a_signature_is_of_one_kind(signed, trust, keys):
    path = signed / "classifier" / "classifier.json"
    sign(path, "release", keys["mine"])
    with pytest.raises(UserError, match="is not what"):
        open_classifier(signed / "classifier", trust=trust)
    with pytest.raises(ValueError, match="Expected one of"):
        sign(path, "letter", keys["mine"])


def test_revocations_are_signed_beside_the_file(tmp_path, trust, keys):
    path = tmp_path / "revocation.json"
    Revocation("1d" * 32, "float16", ("0a" * 32,), ("0b" * 32,)).write(path)
    with pytest.raises(UserError, match=r"the revocation .* is not signed"):
        read_revocation(path, trust)
    sign(path, "revocation", keys["mine"])
    assert read_revocation(path, trust).rows == ("0b" * 32,)


def test_missing_things_are_told_as_missing(tmp_path, trust):
    with pytest.raises(UserError, match=r"is no folder; give the --out of experiments.train_cloud"):
        open_classifier(tmp_path / "none", trust=trust)
    with pytest.raises(UserError, match="is no release"):
        open_release(tmp_path / "none", trust=trust)


def test_trust_of_one_kind(signed, keys):
    trust = whom(keys["mine"], ["classifier"])
    open_classifier(signed / "classifier", trust=trust)
    for other in (trust, whom(keys["mine"], ["package", "revocation"])):
        with pytest.raises(UserError, match=r"is signed by .*, and trusted are none"):
            open_release(signed / "release", trust=other)


def test_public_keys_of_files_and_folders(tmp_path):
    made = {name: make_keys(tmp_path / name).public.signing for name in ("a", "b")}
    path = tmp_path.joinpath
    everybody = read_trust(["."], path).keys
    assert everybody == dict.fromkeys(KINDS, frozenset(made.values()))
    assert read_trust(["a.pub", "."], path, unsigned=True) == Trust(everybody, unsigned=True)
    found = read_trust(["package:a.pub", "classifier:b.pub", "classifier:a.pub"], path).keys
    assert found == {
        "package": frozenset([made["a"]]),
        "classifier": frozenset(made.values()),
    }
    shutil.copy(tmp_path / "a.key", tmp_path / "c.pub")
    with pytest.raises(UserError, match=r"c.pub holds a private key"):
        read_trust(["release:."], path)
    for nothing in ("", "release:"):
        with pytest.raises(UserError, match=f"--trusted has '{nothing}', which names no key"):
            read_trust([nothing], path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no .pub"):
        read_trust(["empty"], path)
    with pytest.raises(UserError, match=r"pakage:a.pub cannot be read"):
        read_trust(["pakage:a.pub"], path)


def test_what_is_too_large_is_not_read(signed, trust, monkeypatch):
    """Signed or not, before anything is computed of it."""
    path = signed / "classifier" / "classifier.json"
    with path.open("ab") as file:
        file.truncate(2**33)
    seen = []
    monkeypatch.setattr(signatures, "_message", lambda kind, content: seen.append(content) or b"")
    with pytest.raises(UserError, match="is not what"):
        open_classifier(signed / "classifier", trust=trust)
    assert len(seen[0]) == 2**26 + 1


def test_what_is_checked_is_what_is_read(signed, trust, monkeypatch):
    """Though somebody exchanges the file in between."""
    path = signed / "classifier" / "classifier.json"
    real = Trust.checked

    def meanwhile(*arguments):
        found = real(*arguments)
        resealed(path, plan_id="2e" * 32)
        return found

    monkeypatch.setattr(Trust, "checked", meanwhile)
    assert open_classifier(signed / "classifier", trust=trust).plan_id == "1d" * 32


def test_a_signed_release_s_folder_and_tar_tell_nothing_else(signed, keys):
    folder = signed / "release"
    assert {path.stat().st_mtime for path in (*folder.iterdir(), folder)} == {315532800}
    with tarfile.open(signed / "release.tar") as archive:
        names = [member.name for member in archive.getmembers()]
        assert {(m.mtime, m.mode, m.uid) for m in archive.getmembers()} == {(315532800, 0o644, 0)}
    assert "release/release.json.signature" in names
    before = (signed / "release.tar").read_bytes()
    # A killed attempt left something, and the time of a file.
    (folder / ".release.json.signature.privynet-x").write_text("")
    os.utime(folder / "release.json")
    sign_release(folder, keys["mine"])
    assert {path.stat().st_mtime for path in (*folder.iterdir(), folder)} == {315532800}
    (signed / "release.tar").unlink()
    assert write_tar(folder).read_bytes() == before
    # Of another key it is another tar.
    sign_release(folder, keys["other"])
    with pytest.raises(UserError, match=r"is not what .* is now, which is complete; move it away"):
        write_tar(folder)

"""What a device releases and withdraws, and says of it: for its program and `experiments` alike.

    print(extract(Path("package"), "folder:photos", Path("release")))

No JAX here.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from privynet_jax.deployment.cloud.classifier import check_same_plan
from privynet_jax.deployment.device.local_package import LocalPackage, open_package
from privynet_jax.deployment.release.equal_rows import (
    Revocation,
    check_comparable,
    digests_of,
    read_revocation,
)
from privynet_jax.deployment.release.extract_release import Written, write_release
from privynet_jax.deployment.release.picture_rows import picture_digests
from privynet_jax.deployment.release.release_folder import Release, sign_release
from privynet_jax.deployment.release.release_inbox import open_releases
from privynet_jax.deployment.release.release_inputs import find_pictures
from privynet_jax.deployment.release.release_tar import check_place, write_sealed, write_tar
from privynet_jax.deployment.trust.keys import PrivateKey, PublicKey, shown
from privynet_jax.deployment.trust.signatures import ANYBODY, SUFFIX, Trust, beside, sign
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading
from privynet_jax.platform.files import new_file, told_where, write_new
from privynet_jax.platform.rows.coding import Coding


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """What decides a release besides the package and the pictures.

    Attributes:
        dtype: how representations are stored, one of `coding.DTYPES`.
        labelled: whether classes are told.
        split: of data sets with splits, one of `release_inputs.SPLITS`.
        order_out: where to write, for this device alone, which picture each row is.
        earlier: releases; of what they hold nothing is released again.
        revoked: files of `revoke`; likewise.
        skip_unreadable: leave out pictures that cannot be decoded instead of refusing them.
        reading: what pictures leave open, and the package does not say.
        data_dir: where TFDS keeps data sets; None is TFDS's default.
        trust: whose packages, earlier releases and revocations are accepted.
        key: who signs the release; None for no signature.
        encrypt_to: who alone can open what is handed over; None for a plain tar.
    """

    dtype: str = "float32"
    labelled: bool = True
    split: str = "all"
    order_out: Path | None = None
    earlier: Sequence[Path] = ()
    revoked: Sequence[Path] = ()
    skip_unreadable: bool = False
    reading: Reading = AS_FILES_SAY
    data_dir: Path | str | None = None
    trust: Trust = ANYBODY
    key: PrivateKey | None = None
    encrypt_to: PublicKey | None = None


_DEFAULTS = ExtractSettings()


def extract(package: Path, images: str, out: Path, settings: ExtractSettings = _DEFAULTS) -> str:
    """Releases pictures, as a folder and as a tar, and says what became of them.

    See `write_release`. What earlier releases hold, or revocations, is left out. Where a picture is
    in two classes, there is no tar to hand over.
    """
    check_place(out, settings.encrypt_to)
    opened = open_package(package, trust=settings.trust)
    pictures = find_pictures(
        images,
        class_names=[*opened.class_ids],
        labelled=settings.labelled,
        split=settings.split,
        data_dir=settings.data_dir,
    )
    written = write_release(
        out,
        opened,
        dataclasses.replace(pictures, reading=settings.reading),
        dtype=settings.dtype,
        skip_unreadable=settings.skip_unreadable,
        order_out=settings.order_out,
        known_rows=_known_rows(opened, settings),
        private_folders=[package],
    )
    sign_release(out, settings.key)
    several = pictures.labels is not None and pictures.labels.ndim == 2
    return _told(written, opened, out, settings, several)


def _told(
    written: Written, package: LocalPackage, out: Path, settings: ExtractSettings, several: bool
) -> str:
    """What became of the pictures; writes what is handed over, if that may be."""
    shape, labels = " x ".join(map(str, package.shape)), "with" if settings.labelled else "without"
    told = (
        f"The release in {out} has {written.rows} rows of {shape} {settings.dtype}, shuffled, "
        f"{labels} labels; {written.skipped} pictures were skipped, {written.copies} copies left "
        "out.\n"
    )
    if settings.earlier or settings.revoked:
        told += f"{written.before} pictures were released before, or revoked, and left out.\n"
        if not written.before:
            told += (
                "If some were, this device, its onnxruntime or, with noise, another package gives "
                "other numbers than the one of before: then do not hand this over.\n"
            )
    if written.contradicting and several:
        return told + (
            f"Look at the {written.contradicting} pictures first that have other labels than their "
            "copies, named above. Make their lines equal, and extract into a new folder."
        )
    if written.contradicting:
        return told + (
            f"Look at the {written.contradicting} pictures first that another class has too, named "
            "above: their rows say one of both. Sort them, and extract into a new folder."
        )
    reader = settings.encrypt_to
    handed = write_tar(out) if reader is None else write_sealed(out, reader)
    whose = "" if reader is None else f" It is for {shown(reader.sealing)} alone."
    return told + f"Hand over {handed} and nothing else.{whose} The package stays here."


def _known_rows(package: LocalPackage, settings: ExtractSettings) -> frozenset[str]:
    """Digests of the rows of earlier releases and of revocations, of this package's plan."""
    releases = open_releases(settings.earlier, trust=settings.trust)
    revocations = [read_revocation(path, settings.trust) for path in settings.revoked]
    every = [*releases.values(), *revocations]
    plans = _plans(releases, settings.revoked, revocations)
    check_same_plan({"the package": package.plan_id} | plans)
    check_comparable([settings.dtype, *(each.dtype for each in every)])
    rows = [row for each in releases.values() for row in digests_of(each.representations)]
    return frozenset([*rows, *(row for each in revocations for row in each.rows)])


def _plans(
    releases: Mapping[str, Release], revoked: Sequence[Path], revocations: Sequence[Revocation]
) -> dict[str, str]:
    named = zip(map(str, revoked), revocations, strict=True)
    return {name: each.plan_id for name, each in (*releases.items(), *named)}


def revoke(
    package: Path,
    images: str,
    releases: Sequence[Path],
    out: Path,
    *,
    reading: Reading = AS_FILES_SAY,
    trust: Trust = ANYBODY,
    key: PrivateKey | None = None,
) -> str:
    """Writes what tells the cloud which rows of some releases it must not use any more."""
    for path in (out, beside(out)):
        new_file("out", str(path))  # before anything is computed for it
    opened, found = open_package(package, trust=trust), open_releases(releases, trust=trust)
    if not found:
        raise UserError("no --release is given; name the releases that hold the pictures")
    check_same_plan({"the package": opened.plan_id} | _plans(found, (), ()))
    dtypes = sorted({release.dtype for release in found.values()})
    check_comparable(dtypes)
    coding = Coding(dtypes[0], np.ones_like(opened.peaks), opened.peaks)
    agreed = reading.agreed(opened.reading)
    pictures = find_pictures(images, class_names=(), labelled=False)
    decode = functools.partial(decode_picture, reading=agreed)  # and keep nothing of it
    wanted = picture_digests(pictures, opened, coding, skip_unreadable=False, decode=decode)
    held = {
        release.id: {*digests_of(release.representations)} & {*wanted.values()}
        for release in found.values()
    }
    there = set().union(*held.values())
    if missing := [number for number, digest in wanted.items() if digest not in there]:
        raise UserError(
            f"{len(missing)} of {len(pictures)} pictures are in none of these releases, such as "
            f"{pictures.name(missing[0])}; leave them out, or give what they are copies of, which "
            "extract named; noise differs from package to package: give the one that released them"
        )
    ids = tuple(sorted(release for release, rows in held.items() if rows))
    revocation = Revocation(opened.plan_id, dtypes[0], ids, tuple(sorted(there)))

    def write(partial: Path) -> None:
        revocation.write(partial)
        sign(partial, "revocation", key)
        if key is not None:  # first, so that there is no revocation without it
            os.replace(beside(partial), beside(out))

    written = write_new(out, write)
    if key is not None and written != out:
        os.replace(beside(out), beside(written))
    also = "" if key is None else f", with {written.name}{SUFFIX} beside it"
    return (
        f"{len(there)} rows of {len(ids)} releases are revoked; hand {told_where(written, out)} "
        f"over{also}. It names no picture. Give it to extract as --revoked from now on; what was "
        "learnt already is in the classifier until train_cloud runs again."
    )

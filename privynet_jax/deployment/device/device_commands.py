"""What the commands of a device do, and say: for its program and for `experiments` alike.

    print(extract(Path("package"), "folder:photos", Path("release")))

No JAX here.
"""

import dataclasses
import functools
import itertools
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from privynet_jax.deployment.cloud.classifier import Classifier, check_same_plan, open_classifier
from privynet_jax.deployment.cloud.predictions import Predicted, write_predictions
from privynet_jax.deployment.device.local_package import (
    NETWORK,
    LocalPackage,
    open_package,
)
from privynet_jax.deployment.device.timing import is_kit, time_kit
from privynet_jax.deployment.release.equal_rows import (
    Revocation,
    check_comparable,
    digests_of,
    read_revocation,
)
from privynet_jax.deployment.release.extract_release import write_release
from privynet_jax.deployment.release.picture_rows import picture_digests
from privynet_jax.deployment.release.release_folder import Release
from privynet_jax.deployment.release.release_inbox import open_releases
from privynet_jax.deployment.release.release_inputs import find_pictures
from privynet_jax.deployment.release.release_tar import check_tar_place, write_tar
from privynet_jax.errors import UserError
from privynet_jax.images.decoding import decode_picture, decoded_ahead, tell_skipped
from privynet_jax.images.folders import folder_of, list_pictures
from privynet_jax.images.pixels.colours import agreed_white
from privynet_jax.platform.files import new_file, written_new
from privynet_jax.platform.onnx_files.onnx_run import machine
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.coding import Coding

_AT_ONCE = 64
_STATUS = Path("/proc/self/status")


def extract(
    package: Path,
    images: str,
    out: Path,
    *,
    dtype: str = "float32",
    labelled: bool = True,
    split: str = "all",
    order_out: Path | None = None,
    earlier: Sequence[Path] = (),
    revoked: Sequence[Path] = (),
    skip_unreadable: bool = False,
    sixteen_bit_max: int = 0,
    data_dir: Path | str | None = None,
) -> str:
    """Releases pictures, as a folder and as a tar, and says what became of them.

    See `write_release`. What earlier releases hold, or revocations, is left out. Where a picture is
    in two classes, there is no tar to hand over.
    """
    check_tar_place(out)
    opened = open_package(package)
    pictures = find_pictures(
        images,
        class_names=[*opened.class_ids],
        labelled=labelled,
        split=split,
        data_dir=data_dir,
    )
    written = write_release(
        out,
        opened,
        dataclasses.replace(pictures, sixteen_bit_max=sixteen_bit_max),
        dtype=dtype,
        skip_unreadable=skip_unreadable,
        order_out=order_out,
        known_rows=_known_rows(opened, dtype, earlier, revoked),
        private_folders=[package],
    )
    shape, labels = " x ".join(map(str, opened.shape)), "with" if labelled else "without"
    told = (
        f"The release in {out} has {written.rows} rows of {shape} {dtype}, shuffled, {labels} "
        f"labels; {written.skipped} pictures were skipped, {written.copies} copies left out.\n"
    )
    if earlier or revoked:
        told += f"{written.before} pictures were released before, or revoked, and left out.\n"
        if not written.before:
            told += (
                "If some were, this device, or its onnxruntime, gives other numbers than the one "
                "of before: then do not hand this over.\n"
            )
    if written.contradicting:
        return told + (
            f"Look at the {written.contradicting} pictures first that another class has too, named "
            "above: their rows say one of both. Sort them, and extract into a new folder."
        )
    return told + f"Hand over {write_tar(out)} and nothing else. The package stays here."


def _known_rows(
    package: LocalPackage, dtype: str, earlier: Sequence[Path], revoked: Sequence[Path]
) -> frozenset[str]:
    """Digests of the rows of earlier releases and of revocations, of this package's plan."""
    releases, revocations = open_releases(earlier), [*map(read_revocation, revoked)]
    every = [*releases.values(), *revocations]
    check_same_plan({"the package": package.plan_id} | _plans(releases, revoked, revocations))
    check_comparable([dtype, *(each.dtype for each in every)])
    rows = [row for each in releases.values() for row in digests_of(each.representations)]
    return frozenset([*rows, *(row for each in revocations for row in each.rows)])


def _plans(
    releases: Mapping[str, Release], revoked: Sequence[Path], revocations: Sequence[Revocation]
) -> dict[str, str]:
    named = zip(map(str, revoked), revocations, strict=True)
    return {name: each.plan_id for name, each in (*releases.items(), *named)}


def revoke(
    package: Path, images: str, releases: Sequence[Path], out: Path, *, sixteen_bit_max: int = 0
) -> str:
    """Writes what tells the cloud which rows of some releases it must not use any more."""
    out = new_file("out", str(out))  # before anything is computed for it
    opened, found = open_package(package), open_releases(releases)
    if not found:
        raise UserError("no --release is given; name the releases that hold the pictures")
    check_same_plan({"the package": opened.plan_id} | _plans(found, (), ()))
    dtypes = sorted({release.dtype for release in found.values()})
    check_comparable(dtypes)
    coding = Coding(dtypes[0], np.ones_like(opened.peaks), opened.peaks)
    white = agreed_white(sixteen_bit_max, opened.sixteen_bit_max)
    pictures = find_pictures(images, class_names=(), labelled=False)
    decode = functools.partial(decode_picture, sixteen_bit_max=white)  # and keep nothing of it
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
            "extract named"
        )
    ids = tuple(sorted(release for release, rows in held.items() if rows))
    revocation = Revocation(opened.plan_id, dtypes[0], ids, tuple(sorted(there)))
    where = written_new(out, revocation.write)
    return (
        f"{len(there)} rows of {len(ids)} releases are revoked; hand {where} over. It names no "
        "picture. Give it to extract as --revoked from now on; what was learnt already is in the "
        "classifier until train_cloud runs again."
    )


def predict_pictures(
    package: Path,
    images: str,
    classifier: Path,
    out: Path,
    *,
    skip_unreadable: bool = False,
    sixteen_bit_max: int = 0,
) -> str:
    """Writes the classes that a classifier from the cloud sees in pictures, and says where."""
    out = new_file("out", str(out))  # before anything is computed for it
    folder = folder_of(images)
    if folder is None or not folder.is_dir():
        raise UserError(f"--images={images} is no folder; give folder:PATH")
    opened = open_package(package)
    known = open_classifier(classifier, opened.cloud_network)
    check_same_plan({"the classifier": known.plan_id, "the package": opened.plan_id})
    known.check_fits(opened.shape, "the package")
    white = agreed_white(sixteen_bit_max, opened.sixteen_bit_max)
    skipped: list[str] = []
    found = _predicted(folder, opened, known, white, skipped if skip_unreadable else None)
    where = write_predictions(out, ("picture",), opened.names_of(known.classes), found)
    tell_skipped(skipped, f"the folder {folder}")
    return f"The predictions are in {where}."


def _predicted(
    folder: Path,
    package: LocalPackage,
    classifier: Classifier,
    white: int,
    skipped: list[str] | None,
) -> Predicted:
    """Each picture's name and probabilities; unreadable ones are listed, or refused for None."""
    paths = list_pictures(folder)
    decode = functools.partial(decode_picture, sixteen_bit_max=white)
    contents = ((str(path), path.read_bytes()) for path in paths)
    decoded = decoded_ahead(contents, package.image_size, skipped is not None, decode)
    # One by one: what was not asked for is dropped when the last one was handed out.
    images = ((path, ahead.result()) for path, ahead in zip(paths, decoded, strict=True))
    seen = 0
    with Bar(total=len(paths), desc="predicting", unit="picture", delay=1) as bar:
        while some := list(itertools.islice(images, _AT_ONCE)):
            readable = [(path, image) for path, image in some if image is not None]
            if skipped is not None:
                skipped += [str(path) for path, image in some if image is None]
            if readable:
                names = [(path.relative_to(folder).as_posix(),) for path, _ in readable]
                local = package.represent(np.stack([image for _, image in readable]))
                yield names, classifier.probabilities(local)
            seen += len(readable)
            bar.update(len(some))
    if not seen:
        raise UserError(f"{folder} holds no picture that can be read; all were skipped")


def measure(package: Path, out: Path | None = None) -> str:
    """Says how long the local NN takes on one picture, on one thread, and what memory.

    Of a folder of `timing_kit`, it writes how long all networks take.
    """
    if is_kit(package):
        if out is None:
            raise UserError("no --out is given; name a file, such as latency.json")
        out = new_file("out", str(out))  # before anything is computed for it
        latencies = time_kit(package)
        where = written_new(out, latencies.write)
        return f"{len(latencies.networks)} networks were measured; {where} is for plan --latency."
    if out is not None:
        raise UserError("--out is for folders of experiments.export_timing; leave it out")
    milliseconds = open_package(package, threads=1).milliseconds()
    size = (package / NETWORK).stat().st_size
    return (
        f"One picture takes {milliseconds:.2f} ms on {machine()}; the process took "
        f"{_most_memory():.0f} MiB at most, and the network's file has {size / 2**20:.2f} MiB."
    )


def _most_memory() -> float:
    """In MiB, of this process."""
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    for line in lines:  # where `getrusage` would tell what the process had that started this one
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 2 ** (20 if sys.platform == "darwin" else 10)

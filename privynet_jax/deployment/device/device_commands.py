"""What a device predicts and measures: for its program and for `experiments` alike.

    print(predict_pictures(Path("package"), "folder:new", Path("classifier"), Path("new.csv")))

No JAX here.
"""

import functools
import itertools
import resource
import sys
from pathlib import Path

import numpy as np

from privynet_jax.deployment.cloud.classifier import Classifier, check_same_plan, open_classifier
from privynet_jax.deployment.cloud.predictions import Predicted, write_predictions
from privynet_jax.deployment.device.local_package import NETWORK, LocalPackage, open_package
from privynet_jax.deployment.device.timing import is_kit, time_kit
from privynet_jax.deployment.trust.keys import PRIVATE, PUBLIC, make_keys, read_public
from privynet_jax.deployment.trust.signatures import ANYBODY, Trust
from privynet_jax.errors import UserError
from privynet_jax.images.decoding import decoded_ahead, tell_skipped
from privynet_jax.images.folders import folder_of, list_pictures
from privynet_jax.images.pixels.pictures import decode_picture, stored_bytes
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading
from privynet_jax.platform.files import new_file, written_new
from privynet_jax.platform.onnx_files.onnx_run import machine
from privynet_jax.platform.progress import Bar

_AT_ONCE = 64
_STATUS = Path("/proc/self/status")


def predict_pictures(
    package: Path,
    images: str,
    classifier: Path,
    out: Path,
    *,
    skip_unreadable: bool = False,
    reading: Reading = AS_FILES_SAY,
    trust: Trust = ANYBODY,
) -> str:
    """Writes the classes that a classifier from the cloud sees in pictures, and says where."""
    out = new_file("out", str(out))  # before anything is computed for it
    folder = folder_of(images)
    if folder is None or not folder.is_dir():
        raise UserError(f"--images={images} is no folder; give folder:PATH")
    opened = open_package(package, trust=trust)
    known = open_classifier(classifier, opened.cloud_network, trust)
    check_same_plan({"the classifier": known.plan_id, "the package": opened.plan_id})
    known.check_fits(opened.shape, "the package")
    agreed = reading.agreed(opened.reading)
    skipped: list[str] = []
    found = _predicted(folder, opened, known, agreed, skipped if skip_unreadable else None)
    names = opened.names_of(known.classes)
    where = write_predictions(out, ("picture",), names, found, several=known.several)
    tell_skipped(skipped, f"the folder {folder}")
    return f"The predictions are in {where}."


def _predicted(
    folder: Path,
    package: LocalPackage,
    classifier: Classifier,
    reading: Reading,
    skipped: list[str] | None,
) -> Predicted:
    """Each picture's name and probabilities; unreadable ones are listed, or refused for None."""
    paths = list_pictures(folder)
    decode = functools.partial(decode_picture, reading=reading)
    contents = ((str(path), stored_bytes(path)) for path in paths)
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


def keys(out: Path | None = None, show: Path | None = None) -> str:
    """Makes keys, and says what is for whom; or shows somebody's."""
    if (out is None) == (show is None):
        raise UserError("give --out=NAME to make keys, or --show=FILE.pub to see whose one is")
    if show is not None:
        return f"{show} {read_public(show)}: compare both numbers with whose it is."
    public = make_keys(out).public
    return (
        f"{out}{PRIVATE} is yours alone; {out}{PUBLIC} is for those who are to know it. It "
        f"{public}: compare both numbers with them, on another way than the file's."
    )


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

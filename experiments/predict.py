r"""Predicts classes with a trained cloud NN, on either side of the split.

    python -m experiments.predict --release=release --classifier=classifier --out=rows.csv
    python -m experiments.predict --package=package --classifier=classifier \
        --images=folder:photos --out=pictures.csv
    python -m experiments.predict --release=release --classifier=classifier \
        --package=package --order=order.csv --out=pictures.csv

The first is the cloud's: row, class number, a probability per class. The second runs local NN and
cloud NN on pictures, labelled or not, in subfolders or not: picture, class name, a probability per
class name. The third is for the device too: order.csv, from experiments.extract, tells which
picture each row of the first is. Takes seconds for thousands of pictures of 32 x 32 pixels.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments import cli
from privynet_jax import LocalPackage, Release, UserError, open_package, open_release
from privynet_jax.backbone.features.extraction import images_per_batch
from privynet_jax.deployment.cloud.classifier import Classifier, check_same_plan, open_classifier
from privynet_jax.deployment.release.row_order import read_order
from privynet_jax.images.colours import agreed_white
from privynet_jax.images.decoding import decode_picture, decoded_ahead, tell_skipped
from privynet_jax.images.folders import list_pictures
from privynet_jax.platform.files import expanded, write_shared
from privynet_jax.platform.progress import Bar
from privynet_jax.results.statistics import accuracies
from privynet_jax.results.text_tables import csv_lines

cli.key_flags("release package images out skip_unreadable sixteen_bit_max")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "Folder that experiments.train_cloud wrote.")
_ORDER = flags.DEFINE_string("order", None, "CSV that experiments.extract wrote as --order_out.")
_ALLOWED = {("release",), ("images", "package"), ("order", "package", "release")}
_MOST_CORES = 8
# Rows that are predicted between two signs of life.
_ROWS = 1024

# Names of pictures or rows, and their probabilities float32 [n, num_classes].
Predicted = Iterator[tuple[Sequence[Sequence[object]], np.ndarray]]


def main() -> None:
    given = (cli.RELEASE, cli.PACKAGE, cli.IMAGES, _ORDER)
    if tuple(sorted(flag.name for flag in given if flag.value)) not in _ALLOWED:
        told = "give --release, or --package and --images, or --release, --package and --order"
        raise UserError(f"{told}; see --help for what each of the three predicts")
    out = cli.new_file(cli.OUT)  # before anything is computed for it
    cli.use_cpu_cores(_MOST_CORES)
    classifier = open_classifier(cli.needed_folder(_CLASSIFIER))
    package = open_package(cli.needed_folder(cli.PACKAGE)) if cli.PACKAGE.value else None
    release = open_release(cli.needed_folder(cli.RELEASE)) if cli.RELEASE.value else None
    known = {"the classifier": classifier, "the package": package, "the release": release}
    check_same_plan({name: one.plan_id for name, one in known.items() if one is not None})
    classes: Sequence[object] = range(classifier.num_classes)
    if package:
        classifier.check_fits(package.shape, len(package.class_names), "the package")
        classes = package.class_names
    if release is not None:
        where = _predict_release(release, classifier, classes, out)
    elif package:
        kind, _, path = cli.IMAGES.value.partition(":")
        folder = expanded("images", path)
        if kind != "folder" or not path or not folder.is_dir():
            raise UserError(f"--images={cli.IMAGES.value} is no folder; give folder:PATH")
        where = _predict_pictures(folder, package, classifier, out)
    print(f"The predictions are in {where}.")


def _predict_release(
    release: Release, classifier: Classifier, classes: Sequence[object], out: Path
) -> str:
    """Writes what is predicted, and says where."""
    total = len(release.representations)
    shape = release.representations.shape[1:]
    classifier.check_fits(shape, release.num_classes, "the release")
    pictures = read_order(cli.needed_file(_ORDER), release.id, total) if _ORDER.value else None
    answers = []

    def predicted() -> Predicted:
        for start in Bar(range(0, total, _ROWS), "predicting", unit="batch", delay=1):
            rows = range(start, min(start + _ROWS, total))
            found = classifier.probabilities(release.representations[start : rows.stop])
            answers.append(found.argmax(axis=1))
            yield [(row, pictures[row]) if pictures else (row,) for row in rows], found

    head = ("row", "picture") if pictures else ("row",)
    where = _written(out, _table(head, classes, predicted()))
    if release.labels is not None:
        seen = " (it was trained on most of them)" if release.id == classifier.release else ""
        right = np.float64(np.concatenate(answers) == release.labels)
        shares = {name: 100 * share for name, share in accuracies(right, release.labels).items()}
        print(
            f"Accuracy on the release's {total} rows{seen}: {shares['accuracy']:.1f} %, balanced "
            f"over classes {shares['balanced_accuracy']:.1f} %, where always answering the "
            f"commonest class gives {shares['commonest_class_share']:.1f} %."
        )
    return where


def _predict_pictures(
    folder: Path, package: LocalPackage, classifier: Classifier, out: Path
) -> str:
    """Writes what is predicted, and says where."""
    paths, skipping = list_pictures(folder), cli.SKIP_UNREADABLE.value
    skipped: list[str] = []
    size = images_per_batch(package.image_size)
    white = agreed_white(cli.SIXTEEN_BIT_MAX.value, package.sixteen_bit_max)

    def predicted() -> Predicted:
        images = np.zeros((size, package.image_size, package.image_size, 3), np.uint8)
        contents = ((str(path), path.read_bytes()) for path in paths)
        decode = functools.partial(decode_picture, sixteen_bit_max=white)
        decoded = decoded_ahead(contents, package.image_size, skipping, decode)
        with Bar(total=len(paths), desc="predicting", unit="picture", delay=1) as bar:
            for start in range(0, len(paths), size):
                names: list[tuple[str]] = []
                for path, ahead in zip(paths[start : start + size], decoded, strict=False):
                    image = ahead.result()
                    if image is None:
                        skipped.append(str(path))
                        continue
                    images[len(names)] = image
                    names.append((path.relative_to(folder).as_posix(),))
                found = package.represent(images[: len(names)])
                yield names, classifier.probabilities(found)
                bar.update(min(size, len(paths) - start))
        if len(skipped) == len(paths):
            raise UserError(f"{folder} holds no picture that can be read; all were skipped")

    where = _written(out, _table(("picture",), package.class_names, predicted()))
    tell_skipped(skipped, f"the folder {folder}")
    return where


def _written(out: Path, table: Iterator[bytes]) -> str:
    return cli.written(out, functools.partial(write_shared, chunks=table, private=True))


def _table(head: Sequence[str], classes: Sequence[object], predicted: Predicted) -> Iterator[bytes]:
    """Yields CSV: what names a prediction, the likeliest class, and the probability of each."""
    yield _csv([[*head, "class", *(f"probability_{name}" for name in classes)]])
    for names, found in predicted:
        likeliest = found.argmax(axis=1).tolist()
        yield _csv(
            [*name, classes[best], *(f"{share:.7g}" for share in shares)]
            for name, best, shares in zip(names, likeliest, found.tolist(), strict=True)
        )


def _csv(rows: Iterator[Sequence[object]] | Sequence[Sequence[object]]) -> bytes:
    return csv_lines(rows).encode(errors="surrogateescape")


if __name__ == "__main__":
    cli.run(main)

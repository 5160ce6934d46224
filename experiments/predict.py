r"""Predicts classes with a trained cloud NN, on either side of the split.

    python -m experiments.predict --release=release.tar --classifier=classifier --out=rows.csv \
        --trusted=release:clinic.pub,classifier:cloud.pub
    python -m experiments.predict --package=package --classifier=classifier \
        --images=folder:photos --out=pictures.csv --trusted=package:planner.pub,classifier:cloud.pub
    python -m experiments.predict --release=release --classifier=classifier \
        --package=package --order=order.csv --out=pictures.csv --unsigned

The first is the cloud's: row, class id, a probability per class id. The second runs local NN and
cloud NN on pictures, labelled or not, in subfolders or not: picture, class name, a probability per
class name. The third is for the device too: order.csv, from experiments.extract, tells which
picture each row of the first is. --trusted names the public keys of who signed what is read;
--unsigned takes what nobody signed. Takes seconds for thousands of pictures of 32 x 32 pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments import cli
from privynet_jax import Release, UserError, join_releases, open_package, open_release
from privynet_jax.deployment.cloud.classifier import Classifier, check_same_plan, open_classifier
from privynet_jax.deployment.cloud.predictions import Predicted, write_predictions
from privynet_jax.deployment.device.device_commands import predict_pictures
from privynet_jax.deployment.release.row_order import read_order
from privynet_jax.platform.files import expanded
from privynet_jax.platform.progress import Bar
from privynet_jax.results.statistics import accuracies

cli.key_flags("release package images out skip_unreadable sixteen_bit_max dicom_window")
cli.key_flags("trusted unsigned")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "Folder that experiments.train_cloud wrote.")
_ORDER = flags.DEFINE_string("order", None, "CSV that experiments.extract wrote as --order_out.")
_ALLOWED = {("release",), ("images", "package"), ("order", "package", "release")}
# Rows that are predicted between two signs of life.
_ROWS = 1024


def main() -> None:
    given = (cli.RELEASE, cli.PACKAGE, cli.IMAGES, _ORDER)
    if tuple(sorted(flag.name for flag in given if flag.value)) not in _ALLOWED:
        told = "give --release, or --package and --images, or --release, --package and --order"
        raise UserError(f"{told}; see --help for what each of the three predicts")
    out, classifier_folder = cli.new_file(cli.OUT), cli.needed_folder(_CLASSIFIER)
    trust = cli.trust()
    if cli.IMAGES.value:
        package_folder = cli.needed_folder(cli.PACKAGE)
        skipping = cli.SKIP_UNREADABLE.value
        print(
            predict_pictures(
                package_folder,
                cli.IMAGES.value,
                classifier_folder,
                out,
                skip_unreadable=skipping,
                reading=cli.reading(),
                trust=trust,
            )
        )
        return
    classifier = open_classifier(classifier_folder, trust=trust)
    release = open_release(expanded(cli.RELEASE.name, cli.RELEASE.value), trust=trust)
    package = None
    if cli.PACKAGE.value:
        package = open_package(cli.needed_folder(cli.PACKAGE), trust=trust)
    known = {"the classifier": classifier, "the package": package, "the release": release}
    check_same_plan({name: one.plan_id for name, one in known.items() if one is not None})
    classes: Sequence[object] = classifier.classes
    if package:
        classifier.check_fits(package.shape, "the package")
        classes = package.names_of(classifier.classes)
    where = _predict_release(release, classifier, classes, out)
    print(f"The predictions are in {where}.")


def _predict_release(
    release: Release, classifier: Classifier, classes: Sequence[object], out: Path
) -> str:
    """Writes what is predicted, and says where."""
    total = len(release.representations)
    shape = release.representations.shape[1:]
    classifier.check_fits(shape, "the release")
    pictures = read_order(cli.needed_file(_ORDER), release.id, total) if _ORDER.value else None
    answers = []

    def predicted() -> Predicted:
        for start in Bar(range(0, total, _ROWS), "predicting", unit="batch", delay=1):
            rows = range(start, min(start + _ROWS, total))
            found = classifier.probabilities(release.representations[start : rows.stop])
            answers.append(found.argmax(axis=1))
            yield [(row, pictures[row]) if pictures else (row,) for row in rows], found

    head = ("row", "picture") if pictures else ("row",)
    where = write_predictions(out, head, classes, predicted())
    if release.labels is not None and release.classes is not None:
        alone = join_releases([release]).id == classifier.data
        seen = "it was trained on most of them" if alone else "it may have been trained on them"
        labels = classifier.labels_of(release.labels, release.classes)
        right = np.float64(np.concatenate(answers) == labels)
        shares = {name: 100 * share for name, share in accuracies(right, release.labels).items()}
        print(
            f"Accuracy on the release's {total} rows ({seen}): {shares['accuracy']:.1f} %, "
            f"balanced over classes {shares['balanced_accuracy']:.1f} %, where always answering "
            f"the commonest class gives {shares['commonest_class_share']:.1f} %."
        )
    return where


if __name__ == "__main__":
    cli.run(main)

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
from privynet_jax.deployment.cloud.predictions import THRESHOLD, Predicted, write_predictions
from privynet_jax.deployment.device.device_commands import predict_pictures
from privynet_jax.deployment.release.row_order import read_order
from privynet_jax.platform.files import expanded
from privynet_jax.platform.progress import Bar
from privynet_jax.results.accuracies import accuracies, accuracies_of_several

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
    answers, several = [], classifier.several

    def predicted() -> Predicted:
        for start in Bar(range(0, total, _ROWS), "predicting", unit="batch", delay=1):
            rows = range(start, min(start + _ROWS, total))
            found = classifier.probabilities(release.representations[start : rows.stop])
            if release.labels is not None:
                answers.append(found if several else found.argmax(axis=1))
            yield [(row, pictures[row]) if pictures else (row,) for row in rows], found

    head = ("row", "picture") if pictures else ("row",)
    where = write_predictions(out, head, classes, predicted(), several=several)
    if release.labels is not None and release.classes is not None:
        alone = join_releases([release]).id == classifier.data
        seen = "it was trained on most of them" if alone else "it may have been trained on them"
        print(_told(release, classifier, np.concatenate(answers), seen))
    return where


def _told(release: Release, classifier: Classifier, found: np.ndarray, seen: str) -> str:
    """How good answers, int [N], are, or probabilities of several, in words."""
    if classifier.several != (release.labels.ndim == 2):
        return "The release's labels are of another kind: one, or several, of each picture."
    labels, rows = classifier.labels_of(release.labels, release.classes), len(release.labels)
    if not (labels >= 0).any():
        return "The release and the classifier have no class in common."
    if classifier.several:
        figures = accuracies_of_several(found, labels, THRESHOLD)
    else:
        figures = accuracies(np.float64(found == labels), release.labels)
    shares = {name: f"{100 * share:.1f} %" for name, share in figures.items()}
    if classifier.several:
        return (
            f"Mean average precision on the release's {rows} rows ({seen}): "
            f"{shares['average_precision']}; {shares['accuracy']} of labels right, balanced over "
            f"classes {shares['balanced_accuracy']}, where always answering what is commoner gives "
            f"{shares['commonest_class_share']}."
        )
    return (
        f"Accuracy on the release's {rows} rows ({seen}): {shares['accuracy']}, balanced over "
        f"classes {shares['balanced_accuracy']}, where always answering the commonest class gives "
        f"{shares['commonest_class_share']}."
    )


if __name__ == "__main__":
    cli.run(main)

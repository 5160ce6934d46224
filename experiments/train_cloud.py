r"""Trains the cloud NN on releases alone: no images, no VGG16 and no plan are needed.

    python -m experiments.train_cloud --release=release.tar --out=classifier --unsigned
    python -m experiments.train_cloud --release=inbox,late.tar --out=classifier \
        --trusted=contributors --key=cloud.key

The new folder --out holds the trained network (safetensors), classifier.json and history.csv. A
tenth of each class is held out, and the parameters with the best accuracy there are kept; training
ends early after --patience validations, of the run's twenty, that brought nothing better. After
Ctrl-C, SIGTERM or a kill the same command continues, to the same numbers. 2000 steps of 64 take
about a minute on two CPU cores.

--release names releases of one plan, as folders or as tars, or folders of such. Of several,
`classifier.contributors.csv`, beside --out, says what each brought, how accurate the classifier is
on its rows, and which ones are unlike the others. Releases that nobody of --trusted signed, public
keys or folders of them, are refused; --unsigned takes what is not signed. --key signs the
classifier. --start=classifier learns on from an earlier one, where releases or classes came since.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags

from experiments import cli
from privynet_jax import Classifier, ClassifierSettings, Schedule, join_releases, session
from privynet_jax.deployment.cloud.classifier import open_classifier
from privynet_jax.deployment.cloud.cloud_training import train_to_folder
from privynet_jax.deployment.cloud.contributions import Contributions
from privynet_jax.deployment.cloud.contributors import LEAST, contributors
from privynet_jax.deployment.cloud.dealing import deal
from privynet_jax.deployment.cloud.predictions import THRESHOLD
from privynet_jax.deployment.cloud.withdrawn import check_revocations, note_revocations
from privynet_jax.deployment.release.equal_rows import read_revocation
from privynet_jax.deployment.release.release_inbox import open_releases
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.platform.rows.row_views import ChosenRows
from privynet_jax.results.text_tables import as_csv

cli.key_flags("release revoked out seed checkpoint_minutes key trusted unsigned")
_USUAL = ClassifierSettings()
_STEPS = flags.DEFINE_integer("steps", _USUAL.schedule.steps, "Mini-batches in all.", 1)
_BATCH = flags.DEFINE_integer("batch_size", _USUAL.schedule.batch_size, "Rows per step.", 1)
_RATE = flags.DEFINE_float("learning_rate", _USUAL.schedule.learning_rate, "Its peak.", 0.0)
_WIDTH = flags.DEFINE_integer("width", _USUAL.width, "Channels of the cloud NN.", 1, 4096)
_HELD_OUT = _USUAL.validation_fraction
_VALIDATION = flags.DEFINE_float("validation_fraction", _HELD_OUT, "Of each class, held out.")
_PATIENCE = flags.DEFINE_integer(
    "patience", _USUAL.patience, "Validations without anything better, to the end.", 1
)
_BALANCED = flags.DEFINE_boolean(
    "balanced", False, "Classes count alike, however many rows each has; of labels, yes and no."
)
_START = flags.DEFINE_string("start", None, "Classifier of this plan, to learn on from.")
# A batch of 64 keeps as many cores busy, and training takes as many as divide the batch.
_MOST_CORES = 8


def main() -> None:
    cli.needed(cli.RELEASE, "name what was handed over")
    out = cli.needed_folder(cli.OUT).resolve()
    settings = ClassifierSettings(
        schedule=Schedule(_STEPS.value, _BATCH.value, _RATE.value),
        width=_WIDTH.value,
        validation_fraction=_VALIDATION.value,
        patience=_PATIENCE.value,
        balanced=_BALANCED.value,
        seed=cli.SEED.value,
    )
    cli.use_cpu_cores(at_most=_MOST_CORES)
    key, trust = cli.key(), cli.trust()
    releases = open_releases(cli.paths(cli.RELEASE), labelled=True, trust=trust)
    revoked = [read_revocation(path, trust) for path in cli.paths(cli.REVOKED)]
    data = join_releases([*releases.values()], revoked)
    if revoked:
        print(f"{data.revoked.sum()} rows are revoked, and left out.")
    for name in data.returned:
        print(f"{name} has rows that are revoked, and was not among the releases that had them.")
    start = None
    if _START.value is not None:
        place = cli.needed_folder(_START)
        start = open_classifier(place, trust=trust)
        check_revocations(place, revoked)
        data = data.with_classes(start.classes)
    every_seconds = 60 * cli.CHECKPOINT_MINUTES.value
    with progress_bar(1, "training", after=1) as advance, session(progress=advance):
        trained = train_to_folder(data, settings, out, every_seconds, key, start)
    if revoked:
        note_revocations(out, revoked)
    print(_summary(out, settings, trained))
    if len(releases) > 1:
        named = {release.id: (name, release.signer) for name, release in releases.items()}
        print(_side_by_side(out, named, data, deal(data, settings, start).validation))


def _summary(out: Path, settings: ClassifierSettings, trained: Classifier | None) -> str:
    if trained is None:
        return f"{out} is finished already, with these settings, and was not trained again."
    done = trained.history[-1].step
    early = "" if done == settings.schedule.steps else f", stopped early after {done} steps"
    balanced = f"balanced over classes {100 * trained.balanced_accuracy:.1f} %"
    # Else what chose the parameters is the accuracy itself.
    usual = f"Validation accuracy {100 * trained.best.validation_accuracy:.1f} %, {balanced}"
    told = f"Validation accuracy, {balanced}" if settings.balanced else usual
    if trained.average_precision is not None:
        told = (
            f"Mean average precision on rows held out {100 * trained.average_precision:.1f} %, "
            f"{balanced}; of the parameters after {trained.best.step} steps{early}, whose loss is "
            f"the least. The classifier is in {out}. Expect less on new pictures, and much less "
            "where pictures here are nearly copies of one another, some of which were held out."
        )
        return told
    return (
        f"{told}, where always answering the commonest "
        f"class gives {100 * trained.commonest_class_share:.1f} %; of the parameters after "
        f"{trained.best.step} steps{early}. The classifier is in {out}. That accuracy chose "
        "the parameters, so expect less on new pictures, and much less where pictures here are "
        "nearly copies of one another, some of which were held out."
    )


def _right(found: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Float [n], of probabilities; see `contributors`."""
    if labels.ndim == 1:
        return np.float64(found.argmax(axis=1) == labels)
    known = labels >= 0
    return (((found >= THRESHOLD) == (labels > 0)) & known).sum(axis=1) / known.sum(axis=1)


def _side_by_side(
    out: Path,
    named: Mapping[str, tuple[str, str]],
    data: Contributions,
    held_out: np.ndarray,
) -> str:
    """Writes a table of the contributors, and says who is unlike the others."""
    judged = ChosenRows(data.representations, held_out)
    right = _right(open_classifier(out).probabilities(judged), data.labels[held_out])
    found = contributors(data, held_out, right)
    # Beside the classifier, which goes back to all of them.
    table = out.with_name(f"{out.name}.contributors.csv")
    told = [
        dict(zip(("name", "signer"), named[one.release], strict=True)) | dataclasses.asdict(one)
        for one in found
    ]
    rows = sorted(told, key=lambda row: str(row["name"]))
    write_atomically(table, as_csv(rows), private=True)
    repeated = sum(one.repeated for one in found)
    lines = [f"{len(found)} releases with {len(data)} rows and {repeated} copies: see {table}."]
    lines += [f"{named[one.release][0]} has {one.strange}." for one in found if one.strange]
    if all(math.isnan(one.distance) for one in found):
        lines.append(f"With fewer than {LEAST} releases, rows unlike the others' are not named.")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, continues=True)

"""Trains the cloud NN on a release directory alone: no images, no VGG16 and no plan are needed.

    python -m experiments.train_cloud --release=release --out=classifier

The new folder --out holds the trained network (safetensors), classifier.json and history.csv. A
tenth of each class is held out, and the parameters with the best accuracy there are kept; training
ends early after --patience validations, of the run's twenty, that brought nothing better. After
Ctrl-C, SIGTERM or a kill the same command continues, to the same numbers. 2000 steps of 64 take
about a minute on two CPU cores.
"""

from pathlib import Path

from absl import flags

from experiments import cli
from privynet_jax import Classifier, Schedule, open_release, session
from privynet_jax.deployment.cloud.cloud_training import ClassifierSettings, train_to_folder
from privynet_jax.platform.progress import progress_bar

cli.key_flags("release out seed checkpoint_minutes")
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
# A batch of 64 keeps as many cores busy, and training takes as many as divide the batch.
_MOST_CORES = 8


def main() -> None:
    source, out = cli.needed_folder(cli.RELEASE), cli.needed_folder(cli.OUT)
    settings = ClassifierSettings(
        schedule=Schedule(_STEPS.value, _BATCH.value, _RATE.value),
        width=_WIDTH.value,
        validation_fraction=_VALIDATION.value,
        patience=_PATIENCE.value,
        seed=cli.SEED.value,
    )
    cli.use_cpu_cores(at_most=_MOST_CORES)
    release = open_release(source)
    every_seconds = 60 * cli.CHECKPOINT_MINUTES.value
    with progress_bar(1, "training", after=1) as advance, session(progress=advance):
        trained = train_to_folder(release, settings, out, every_seconds)
    print(_summary(out, settings, trained))


def _summary(out: Path, settings: ClassifierSettings, trained: Classifier | None) -> str:
    if trained is None:
        return f"{out} is finished already, with these settings; there is nothing to do."
    done = trained.history[-1].step
    early = "" if done == settings.schedule.steps else f", stopped early after {done} steps"
    return (
        f"Validation accuracy {100 * trained.best.validation_accuracy:.1f} %, balanced over "
        f"classes {100 * trained.balanced_accuracy:.1f} %, where always answering the commonest "
        f"class gives {100 * trained.commonest_class_share:.1f} %; of the parameters after "
        f"{trained.best.step} steps{early}. The classifier is in {out}. That accuracy chose "
        "the parameters, so expect less on new pictures, and much less where pictures here are "
        "nearly copies of one another, some of which were held out."
    )


if __name__ == "__main__":
    cli.run(main, continues=True)

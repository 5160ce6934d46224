"""Characterises a grid of local topologies: accuracy of the cloud NN against privacy loss.

    python -m experiments.characterize --flagfile=experiments/flags/quickstart.flags

Everything ends up in --workdir: results.csv, attacks.csv, reference.csv, tradeoff.png and
reconstructions.png. The same command again does only what is missing. On several machines give
--coordinator_address, --num_processes and --process_id too; a TPU pod needs none of them.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from experiments import cli
from experiments.reporting import plots
from privynet_jax.backbone.topology import METHODS
from privynet_jax.characterisation.config import DEDICATED, MODES, Config
from privynet_jax.characterisation.run import characterise
from privynet_jax.errors import UserError
from privynet_jax.platform.coding import DTYPES
from privynet_jax.results.cells import Cell
from privynet_jax.results.summaries import convergence_note, summary_table
from privynet_jax.training.tasks import Schedule

for _shared in (
    *("workdir", "weights", "data_dir", "cache_dir", "seed", "skip_unreadable", "max_images"),
    *("coordinator_address", "num_processes", "process_id", "checkpoint_minutes"),
    "trained_attackers",
):
    flags.declare_key_flag(_shared)
_DATASET = flags.DEFINE_string(
    "dataset", Config.dataset, "photo_patches, folder:PATH or TFDS name."
)
_LAYERS = flags.DEFINE_list(
    "layers", [str(m) for m in Config.layers], "Numbers of local convolution layers, 1..13."
)
_DEPTHS = flags.DEFINE_list(
    "depths", [str(depth) for depth in Config.depths], "Numbers of released channels."
)
_DRAWS = flags.DEFINE_integer(
    "draws", Config.draws, "Random channel draws per (layers, depth, selection)."
)
_SELECTIONS = flags.DEFINE_list(
    "selections",
    list(Config.selections),
    f"What draws are made from: {', '.join(METHODS)}; direct searches the channels.",
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", Config.image_size, "Side of images in pixels.")
_FEATURE_DTYPE = flags.DEFINE_enum(
    "feature_dtype", Config.feature_dtype, DTYPES, "How representations are cached."
)
_CLOUD_STEPS = flags.DEFINE_integer("cloud_steps", Config.cloud.steps, "Of the cloud NN.", 1)
_CLOUD_BATCH = flags.DEFINE_integer(
    "cloud_batch_size", Config.cloud.batch_size, "Examples per step.", 1
)
_CLOUD_RATE = flags.DEFINE_float(
    "cloud_learning_rate", Config.cloud.learning_rate, "Its peak.", 0.0
)
_CLOUD_WIDTH = flags.DEFINE_integer(
    "cloud_width", Config.cloud_width, "Channels of the cloud NN.", 1
)
_ATTACKER_STEPS = flags.DEFINE_integer(
    "attacker_steps", Config.attacker.steps, "Of each trained attacker.", 1
)
_ATTACKER_BATCH = flags.DEFINE_integer(
    "attacker_batch_size", Config.attacker.batch_size, "Examples per step.", 1
)
_ATTACKER_RATE = flags.DEFINE_float(
    "attacker_learning_rate", Config.attacker.learning_rate, "Its peak.", 0.0
)
_ATTACKER_WIDTH = flags.DEFINE_integer(
    "attacker_width", Config.attacker_width, "Channels of the residual attacker.", 1
)
_ATTACKER_BLOCKS = flags.DEFINE_integer(
    "attacker_blocks", Config.attacker_blocks, "Its residual blocks.", 0
)
_COMPUTE_DTYPE = flags.DEFINE_enum(
    "compute_dtype",
    Config.compute_dtype,
    ["float32", "bfloat16"],
    "Arithmetic of the trained networks; bfloat16 is faster on accelerators.",
)
_EXAMPLES = flags.DEFINE_integer(
    "examples", Config.examples, "Test images kept with reconstructions.", 1, 100
)
_PICTURED = flags.DEFINE_list(
    "pictured", [], "Cells in reconstructions.png, such as m02_d008_r00; default: every draw 0."
)
_MODE = flags.DEFINE_enum(
    "mode", Config.mode, MODES, "Networks trained per cell, per layer, or none at all."
)
_SCORING_IMAGES = flags.DEFINE_integer(
    "scoring_images", Config.scoring_images, "Per part, in modes amortised and linear.", 1
)
_FINE_TUNING_STEPS = flags.DEFINE_integer(
    "fine_tuning_steps", Config.fine_tuning_steps, "Per cell, in mode amortised.", 0
)
_CELLS_PER_DEVICE = flags.DEFINE_integer(
    "cells_per_device",
    Config.cells_per_device,
    "Cells trained at once by a device; 0: the backend decides.",
    0,
)
_STEPS_PER_DISPATCH = flags.DEFINE_integer(
    "steps_per_dispatch",
    Config.steps_per_dispatch,
    "Training steps per dispatch; 0: the backend decides.",
    0,
)
_DEVICE_MEMORY = flags.DEFINE_float(
    "device_memory_gib",
    Config.device_memory_gib,
    "Memory to use of each device; 0: all that an accelerator says it has.",
    0.0,
)


def main() -> None:
    config = _config_from_flags()
    of_layer = len(config.depths) * len(config.selections) * config.draws
    cli.use_cpu_cores(at_most=of_layer)
    pictured = _pictured_names(config.cells(), _PICTURED.value)
    share = cli.joined_share(config.workdir)
    done = characterise(dataclasses.replace(config, share=share))
    if not done.complete:
        print(
            f"This process's share is done. {len(done.results)} of {len(config.cells())} cells are "
            f"in {config.workdir}; the last process to finish draws the pictures, and so does any "
            "of these commands when it is run again later."
        )
        return
    plots.save_tradeoff(done.results, done.store)
    plots.save_reconstructions(done.results, done.store, done.examples, pictured)
    print(summary_table(done.results, done.store.read_csv("reference.csv")))
    if config.mode == DEDICATED:
        print(convergence_note(done.results))
    else:
        print(
            f"These are estimates by the mode {config.mode}: they rank cells, and are mostly lower "
            "than what dedicated networks reach."
        )
    print(
        f"Results and pictures are in {config.workdir}. Privacy loss is what these attackers "
        "reached on images they never saw; it bounds no other attacker."
    )


def _config_from_flags() -> Config:
    if not cli.WORKDIR.value:
        raise UserError("no --workdir is given; name a folder for the results")
    return Config(
        workdir=cli.folder("workdir", cli.WORKDIR.value),
        dataset=_DATASET.value,
        weights=cli.WEIGHTS.value or Config.weights,
        layers=cli.whole_numbers(_LAYERS),
        depths=cli.whole_numbers(_DEPTHS),
        draws=_DRAWS.value,
        selections=tuple(_SELECTIONS.value),
        image_size=_IMAGE_SIZE.value,
        seed=cli.SEED.value,
        cache_dir=cli.cache_folder(),
        data_dir=cli.data_folder(),
        max_images=cli.limits(cli.MAX_IMAGES.value),
        skip_unreadable=cli.SKIP_UNREADABLE.value,
        feature_dtype=_FEATURE_DTYPE.value,
        cloud=Schedule(_CLOUD_STEPS.value, _CLOUD_BATCH.value, _CLOUD_RATE.value),
        attackers=tuple(cli.TRAINED_ATTACKERS.value),
        attacker=Schedule(_ATTACKER_STEPS.value, _ATTACKER_BATCH.value, _ATTACKER_RATE.value),
        cloud_width=_CLOUD_WIDTH.value,
        attacker_width=_ATTACKER_WIDTH.value,
        attacker_blocks=_ATTACKER_BLOCKS.value,
        compute_dtype=_COMPUTE_DTYPE.value,
        examples=_EXAMPLES.value,
        mode=_MODE.value,
        scoring_images=_SCORING_IMAGES.value,
        fine_tuning_steps=_FINE_TUNING_STEPS.value,
        cells_per_device=_CELLS_PER_DEVICE.value,
        steps_per_dispatch=_STEPS_PER_DISPATCH.value,
        device_memory_gib=_DEVICE_MEMORY.value,
        checkpoint_minutes=cli.CHECKPOINT_MINUTES.value,
    )


def _pictured_names(cells: Sequence[Cell], asked: Sequence[str]) -> list[str]:
    known = [cell.name for cell in cells]
    if unknown := [name for name in asked if name not in known]:
        raise UserError(
            f"--pictured names {', '.join(unknown)}; allowed are this grid's cells: "
            f"{', '.join(known)}"
        )
    return list(asked) or [cell.name for cell in cells if cell.draw == 0]


if __name__ == "__main__":
    cli.run(main)

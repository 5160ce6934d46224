r"""Plans the local NN: the best characterised topology under limits, and its channels.

    python -m experiments.plan --workdir=runs/public --sample=folder:pictures --out=plan.json \
        --max_psnr_db=20 --max_local_mmacs=160

--workdir is a finished characterisation of public data. --sample is a small labelled set of the
user's own pictures, one subfolder per class; it stays here. The best has the highest balanced
accuracy, in which classes count alike however frequent they are. --under_mechanisms adds
characterisations with noise and the like, which may be better at equal privacy loss, and alone have
an --max_epsilon. Channels are drawn, and attacked on the sample by class public before they are
taken: minutes each on two CPU cores, or none with --attacked_images=0, which relies on the
characterisation's own attackers. The plan holds secrets, which channels are released among them:
keep it like a key.
"""

import functools
import json
import os
from pathlib import Path

from absl import flags

from experiments import cli
from privynet_jax import Config, UserError, write_plan
from privynet_jax.backbone.topology import DIRECT, METHODS
from privynet_jax.mechanisms.guarantees import DELTA
from privynet_jax.planning import planner
from privynet_jax.planning.drawing import PlanSettings
from privynet_jax.planning.plan import STATISTICS, Limits
from privynet_jax.planning.promise import read_episodes
from privynet_jax.planning.topology_plan import NothingFitsError, plan_topology
from privynet_jax.platform.files import checked_file, written_new
from privynet_jax.results.summaries import convergence_note
from privynet_jax.selection.secret_draw import Selection

cli.key_flags("workdir out weights data_dir cache_dir skip_unreadable sixteen_bit_max fit")
cli.key_flags("dicom_window")
cli.key_flags("attacked_images latency max_psnr_db training")
_UNDER_MECHANISMS = flags.DEFINE_list(
    "under_mechanisms",
    [],
    "Further finished characterisations, made like --workdir but for a --mechanism each, among "
    "which to choose as well.",
)
_SAMPLE = flags.DEFINE_string("sample", None, "Your labelled pictures: folder:PATH or TFDS name.")
_SAMPLE_IMAGES = flags.DEFINE_integer(
    "sample_images", None, "To look at; default: 500, but at most a third of each class."
)
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace a plan, and its channels, at --out.")
_LIMITS = {
    "ssim": "Most privacy loss as SSIM.",
    "local_mmacs": "Most local multiply-accumulates per image, in millions.",
    "storage_mib": "Most local parameters, in MiB.",
    "release_kib": "Largest representation of one image as float32, in KiB.",
    "latency_ms": "Most milliseconds for one image, on one thread of this machine, or as in "
    "--latency.",
    "epsilon": f"Most epsilon of one release's local differential privacy, at delta {DELTA:g}.",
}
_MOST = {"psnr_db": cli.MAX_PSNR_DB} | {
    name: flags.DEFINE_float(f"max_{name}", None, told, None, 1.0 if name == "ssim" else None)
    for name, told in _LIMITS.items()
}
_STATISTIC = flags.DEFINE_enum(
    "statistic", "mean", STATISTICS, "Of privacy loss over images, for its limits."
)
_MARGINS = {
    name: flags.DEFINE_float(
        f"margin_{name}",
        None,
        f"Kept under --max_{metric} for stronger attackers{unit}; default: what episodes call for, "
        f"{planner.MARGINS[metric]} where there are none.",
    )
    for metric, name, unit in (("psnr_db", "db", ", in dB"), ("ssim", "ssim", ""))
}
_EPISODES = flags.DEFINE_string(
    "episodes",
    None,
    "The episodes.csv of experiments.check_planning, which margins rest on. Default: the "
    "library's own.",
)
_SELECTION = flags.DEFINE_enum(
    "selection",
    None,
    METHODS,
    "direct releases the best channels that the characterisation's search found, the others draw "
    "in secret from what is left; all need cells of it. Default: the first characterised one of "
    "direct, both and random.",
)
_MEASURE_LATENCY = flags.DEFINE_boolean(
    "measure_latency", False, "Measure the chosen topology's latency even without a limit on it."
)


def main() -> None:
    if _OVERWRITE.value:
        out = checked_file("out", cli.needed(cli.OUT, "name a file"))
        if os.path.lexists(out) and not _is_plan(out):
            raise UserError(f"--out={out} is no plan, which --overwrite replaces; give another")
    else:  # packages that were made of a plan would no longer have its channels
        out = cli.new_file(cli.OUT, "give another file, or --overwrite")
    sample = cli.needed(_SAMPLE, "give folder:PATH with one subfolder per class")
    workdirs = [cli.needed_folder(cli.WORKDIR), *cli.paths(_UNDER_MECHANISMS)]
    given = {name: flag.value for name, flag in _MOST.items()}
    limits = Limits(**given, statistic=_STATISTIC.value)
    episodes = read_episodes(cli.needed_file(_EPISODES)) if _EPISODES.value else None
    settings = PlanSettings(
        selection=_SELECTION.value,
        **{f"margin_{name}": flag.value for name, flag in _MARGINS.items()},
        episodes=episodes,
        attacked_images=cli.ATTACKED_IMAGES.value,
        measure_latency=_MEASURE_LATENCY.value,
        latencies=cli.latencies(),
        sample_images=_SAMPLE_IMAGES.value,
        **cli.decoding(),
        cache_dir=cli.folder("cache_dir", cli.CACHE_DIR.value),
        data_dir=cli.data_folder(),
        training=cli.TRAINING.value,
    )
    weights = cli.WEIGHTS.value or Config.weights
    cli.use_cpu_cores()
    try:
        planned = plan_topology(workdirs, sample, limits, weights, settings)
    except NothingFitsError as error:
        print(error.explanation)
        raise
    plan = planned.plan
    if _OVERWRITE.value and _is_plan(out):  # still: planning took a while
        write_plan(out, plan)
        where = str(out)
    else:
        where = written_new(out, functools.partial(write_plan, plan=plan))
    print(planned.explanation)
    print(f"Of the cells that expectations are of: {convergence_note(planned.cells)}")
    print(
        f"\nThe plan is in {where}: {_chosen(plan.selection, plan.topology.depth)}. An audit will "
        f"leave out the pictures that it was made with, and their copies, {len(plan.sample)} of "
        f"{planned.available}. Keep the file as secret as the pictures, and release no picture "
        "under two plans: whoever has both releases has the channels of both."
    )


def _is_plan(path: Path) -> bool:
    """Whether a plan is there, of whatever version: --overwrite replaces nothing else."""
    try:
        return {"topology", "selection"} <= json.loads(path.read_bytes()).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _chosen(selection: Selection, depth: int) -> str:
    """Says how channels came to be chosen, and how much of a secret they are."""
    bits = f"selection {selection.method}, {selection.entropy_bits:.0f} bits"
    if selection.method == DIRECT:
        repeated = f"{bits}: whoever repeats the search finds them"
        return f"the best {depth} channels that the search found ({repeated}), in a secret order"
    candidates = len(selection.candidates)
    return f"{depth} secret channels, drawn at random from {candidates} candidates ({bits})"


if __name__ == "__main__":
    cli.run(main)

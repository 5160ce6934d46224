"""Writes the package that is put on a user's device: the local NN that a plan chose.

    python -m experiments.export_local --plan=plan.json --out=device

The new folder holds the network as ONNX, with the needed weights and nothing of the others,
settings, a program that needs NumPy, Pillow and onnxruntime alone and releases and predicts as
`extract` and `predict` do, and a README for the device. It is as secret as the plan. With --key it
is signed, and devices can tell whose it is. With --page a browser can do the same: page.html shows
pictures and what leaves of them, and sends nothing. Takes seconds. --with_attacker=photo_patches
trains an inverse network on pictures of that data set, as long as an audit does, and the page
shows what it rebuilds. Then that page is all that is written: it is for demonstrations, of a plan
that no release uses. Minutes.
"""

from pathlib import Path

from absl import flags

from experiments import cli
from privynet_jax import Plan, PretrainedWeights, UserError, read_plan, session
from privynet_jax.auditing.fresh_attackers import train_shown_attacker
from privynet_jax.deployment.device.package_export import DTYPES, write_package
from privynet_jax.deployment.page.attacker_graph import attacker_graph, check_size
from privynet_jax.deployment.page.page_file import PAGE, Attacker, check_possible, fetch_runtime
from privynet_jax.platform.files import check_is_new
from privynet_jax.platform.progress import progress_bar

cli.key_flags("plan out weights cache_dir data_dir max_images skip_unreadable key training")
_NEW_CLASSES = flags.DEFINE_list(
    "new_classes", [], "Names of classes that pictures have now, and the plan's had not."
)
_PAGE = flags.DEFINE_boolean(
    "page", False, "Add a page for browsers, of 5 MiB and the network; npm fetches its runtime."
)
_WITH_ATTACKER = flags.DEFINE_string(
    "with_attacker", None, "Labelled pictures that the page's attacker learns from, as --data."
)
_DTYPE = flags.DEFINE_enum("weights_dtype", DTYPES[0], DTYPES, "How weights are stored.")


def main() -> None:
    folder = cli.needed_folder(cli.OUT)
    check_is_new(folder)  # before anything is fetched or read
    key, plan = cli.key(), read_plan(cli.needed_file(cli.PLAN))
    weights = cli.weights_of(plan)
    plan.check_weights(weights.fingerprint, weights.source)
    told = {"dtype": _DTYPE.value, "new_classes": _NEW_CLASSES.value}
    if _PAGE.value:
        told["page_cache"] = cli.folder("cache_dir", cli.CACHE_DIR.value)
    if _WITH_ATTACKER.value:
        told["attacker"] = _attacker(plan, weights)
    write_package(folder, plan, weights.params, key=key, **told)
    if "attacker" in told:
        print(
            f"{folder / PAGE} is for showing, and is no package. Release no picture under this "
            "plan, now or later: whoever has the page can rebuild it. Make another plan for that."
        )
    else:
        print("\n".join(_report(plan, folder)))


def _attacker(plan: Plan, weights: PretrainedWeights) -> Attacker:
    """Trains what the page shows; refuses first what a page cannot show."""
    if not _PAGE.value:
        raise UserError("--with_attacker is for the page; give --page too")
    check_possible(plan.mechanism, plan.reading)
    shape = plan.topology.representation_shape(plan.image_size)
    check_size(shape, plan.image_size)
    fetch_runtime(cli.folder("cache_dir", cli.CACHE_DIR.value))
    seed = cli.next_seed(plan.settings["seed"])
    cli.use_cpu_cores()
    parts = cli.load_data(
        _WITH_ATTACKER.value, image_size=plan.image_size, seed=seed, reading=plan.reading
    )
    cache, training = cli.folder("cache_dir", cli.CACHE_DIR.value), cli.TRAINING.value
    bar = progress_bar(1, "training the attacker", after=2)
    with bar as advance, session(progress=advance):
        shown = train_shown_attacker(
            plan, parts, weights, seed=seed, cache_dir=cache, training=training
        )
    network = attacker_graph(shown.params, shown.kernel, shown.bias, shape, plan.image_size)
    print(f"The page's attacker rebuilds test images at {shown.psnr_db:.1f} dB on average.")
    return Attacker(network, shown.psnr_db, shown.pairs)


def _report(plan: Plan, folder: Path) -> list[str]:
    topology, side = plan.topology, plan.image_size
    shape = "x".join(map(str, topology.representation_shape(side)))
    size = sum(path.stat().st_size for path in folder.iterdir())
    return [
        f"Local NN: {topology.num_layers} layers of {topology.backbone} to {topology.layer.name}, "
        f"images {side}x{side}x3 to representations {shape}.",
        f"Written to {folder} ({size / 2**20:.2f} MiB), readable by you alone: it is secret.",
        f"Copy the folder to the device, and run python privynet.pyz check there; see "
        f"{folder}/README.md.",
    ]


if __name__ == "__main__":
    cli.run(main)

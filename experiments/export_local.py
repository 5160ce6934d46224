"""Writes the package that is put on a user's device: the local NN that a plan chose.

    python -m experiments.export_local --plan=plan.json --out=device

The new folder holds the network as ONNX, with the needed weights and nothing of the others,
settings, a program that needs NumPy, Pillow and onnxruntime alone and releases and predicts as
`extract` and `predict` do, and a README for the device. It is as secret as the plan. With --key it
is signed, and devices can tell whose it is. With --page a browser can do the same: page.html shows
pictures and what leaves of them, and sends nothing. Takes seconds.
"""

from pathlib import Path

from absl import flags

from experiments import cli
from privynet_jax import Plan, read_plan
from privynet_jax.deployment.device.package_export import DTYPES, write_package
from privynet_jax.platform.files import check_is_new

cli.key_flags("plan out weights cache_dir key")
_NEW_CLASSES = flags.DEFINE_list(
    "new_classes", [], "Names of classes that pictures have now, and the plan's had not."
)
_PAGE = flags.DEFINE_boolean(
    "page", False, "Add a page for browsers, of 5 MiB and the network; npm fetches its runtime."
)
_DTYPE = flags.DEFINE_enum("weights_dtype", DTYPES[0], DTYPES, "How weights are stored.")


def main() -> None:
    folder = cli.needed_folder(cli.OUT)
    check_is_new(folder)  # before anything is fetched or read
    key, plan = cli.key(), read_plan(cli.needed_file(cli.PLAN))
    weights = cli.weights_of(plan)
    plan.check_weights(weights.fingerprint, weights.source)
    told = {"dtype": _DTYPE.value, "new_classes": _NEW_CLASSES.value}
    page_cache = cli.cache_folder() if _PAGE.value else None
    write_package(folder, plan, weights.params, key=key, page_cache=page_cache, **told)
    print("\n".join(_report(plan, folder)))


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

r"""Writes a folder with which a device measures the networks that a plan may choose among.

    python -m experiments.export_timing --workdir=runs/story --out=timing

Copy it to the device, and run `python privynet.pyz time --out=latency.json` there, with NumPy,
Pillow and onnxruntime alone. `plan --latency=latency.json --max_latency_ms=5` then goes by that
device, not by this machine. The weights are made up: nothing in the folder is secret.
"""

from experiments import cli
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device.timing_kit import write_timing_kit
from privynet_jax.platform.files import check_is_new
from privynet_jax.results.work_directory import ResultStore

cli.key_flags("workdir out")


def main() -> None:
    folder = cli.needed_folder(cli.OUT)
    check_is_new(folder)  # before anything is read
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    cells = store.grid_results(config)  # of every selection that a plan may be asked for
    shapes = sorted({(cell.num_layers, cell.depth) for cell in cells})
    topologies = [Topology(layers, range(depth), config["backbone"]) for layers, depth in shapes]
    write_timing_kit(folder, topologies, config["image_size"])
    print(
        f"{folder} has {len(topologies)} networks to measure. Copy it to the device, and run "
        "python privynet.pyz time --out=latency.json there."
    )


if __name__ == "__main__":
    cli.run(main)

"""Measures how close a characterisation comes to what the machine can multiply.

    python -m experiments.benchmark --json=benchmark.json

Extraction by number of layers and for all in one pass; training of cloud NN and attacker through
the trainer; candidates of a tuning beside cells; and, on CPU, how training scales over forced
numbers of devices. Every share is of the float32 matrix-product rate measured right before and
after, in the same process.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.benchmarking import parts as benchmark_parts
from experiments.benchmarking.inputs import Setup
from experiments.benchmarking.timing import Clock
from privynet_jax.characterisation.config import Config
from privynet_jax.errors import UserError
from privynet_jax.platform.devices import Execution, environment, execution_for
from privynet_jax.platform.files import checked_file, write_atomically

_JSON = flags.DEFINE_string("json", None, "File for all numbers.")
_PARTS = flags.DEFINE_list(
    "parts", ["extraction", "training", "tuning", "scaling"], "What is measured."
)
_LAYERS = flags.DEFINE_list("layers", list(map(str, Setup.layers)), "Numbers of layers, 1..13.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", Setup.image_size, "Side of images in pixels.")
_DEPTH = flags.DEFINE_integer("depth", Setup.depth, "Released channels.", 1, 64)
_WIDTH = flags.DEFINE_integer("width", Setup.width, "Channels of the cloud NN.", 1)
_CLOUD_BATCH = flags.DEFINE_integer("cloud_batch", Setup.cloud_batch, "Examples per step.", 1)
_ATTACKER_BATCH = flags.DEFINE_integer(
    "attacker_batch", Setup.attacker_batch, "Examples per step.", 1
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Samples, each between two matrix products.", 1)
_DEVICES = flags.DEFINE_integer("devices", 0, "CPU devices; 0: one per core.", 0)
_QUICK = flags.DEFINE_boolean("quick", False, "Rough numbers within a minute.")

# More than any machine has; on accelerators each device holds as many cells as it may.
_MANY = 2**16
_CELLS_PER_DEVICE = 8
_SCALING_DEVICES = (1, 2, 4, 8)
_TABLES = {
    "extraction": (
        ("layers", "images_per_second", "gflops", "gflops_best", "share", "time_of_deepest"),
        benchmark_parts.extraction,
    ),
    "training": (
        ("layer", "network", "cells", "gflops", "gflops_best", "share", "step_seconds"),
        benchmark_parts.training,
    ),
    "tuning": (
        ("layer", "networks", "cells_seconds", "candidates_seconds", "candidates_per_cells"),
        benchmark_parts.tuning,
    ),
}
_SCALING_COLUMNS = ("devices", "network", "cells", "gflops", "share", "product_gflops")
# device_kind -> (peak in GFLOP/s, of what), from the makers' data sheets; dense, without sparsity.
_PEAKS = {
    "Tesla T4": (8_100, "float32"),
    "Tesla V100-SXM2-16GB": (15_700, "float32"),
    "NVIDIA L4": (30_300, "float32"),
    **dict.fromkeys(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"), (19_500, "float32")),
    **dict.fromkeys(("NVIDIA H100 80GB HBM3", "NVIDIA H200"), (67_000, "float32")),
    "TPU v4": (275_000, "bfloat16"),
    "TPU v5 lite": (197_000, "bfloat16"),
    "TPU v5": (459_000, "bfloat16"),
    "TPU v6 lite": (918_000, "bfloat16"),
}


def main() -> None:
    cli.use_cpu_cores(at_most=_MANY)
    if _DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    # Checked only now, because channels are drawn for it, and JAX then starts.
    setup, parts = _setup_from_flags(), _checked_parts(_PARTS.value)
    target = _checked_target(_JSON.value)
    devices = execution_for(_MANY, _MANY).devices
    execution = execution_for(max(2, _CELLS_PER_DEVICE * len(devices)), _MANY)
    report = _run(setup, parts, execution)
    if target:
        write_atomically(target, json.dumps(report, indent=1) + "\n")
    print(_as_text(report))


def _run(setup: Setup, parts: Sequence[str], execution: Execution) -> dict[str, Any]:
    on_cpu = execution.devices[0].platform == "cpu"
    size = (1024 if _QUICK.value else 2048) if on_cpu else 8192
    clock = Clock(execution, size, _repeats(), 0.05 if _QUICK.value else 0.4)
    report: dict[str, Any] = {
        "environment": environment(),
        "cores": os.cpu_count(),
        "devices": len(execution.devices),
        "cells_per_device": execution.cells_per_device,
        "settings": dataclasses.asdict(setup),
        "peak": _peak(execution),
    }
    with tqdm(total=_rows(parts, setup), desc="measuring", unit="row") as bar:
        for part in parts:
            if part == "scaling":
                report[part] = _scaling(setup, bar.update)
                continue
            report[part] = []
            for row in _TABLES[part][1](setup, clock, execution):
                report[part].append(row)
                bar.update()
    clock.product_rate()
    report["matrix_product"] = {
        "size": size,
        "gflops": statistics.median(clock.rates),
        "gflops_best": max(clock.rates),
        "samples": clock.rates,
    }
    return report


def _scaling(setup: Setup, progress: Callable[[], Any]) -> list[dict[str, Any]]:
    """Rows of training at the middle layer, from one child process per number of CPU devices.

    JAX takes the number of CPU devices only before it starts, and a core may carry several.
    """
    layer = sorted(setup.layers)[len(setup.layers) // 2]
    rows = []
    for count in _scaling_devices():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "child.json"
            changed = {"parts": "training", "layers": layer, "devices": count, "json": path}
            # JAX_PLATFORMS: the children of a process on an accelerator run on CPU as well.
            subprocess.run(
                [sys.executable, "-m", "experiments.benchmark", *_arguments(changed)],
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            report = json.loads(path.read_text())
        product = report["matrix_product"]["gflops"]
        rows += [{"devices": count, "product_gflops": product, **r} for r in report["training"]]
        progress()
    return rows


def _arguments(changed: dict[str, Any]) -> list[str]:
    """This command's own flags for a child, with some of them changed."""
    kept = (_IMAGE_SIZE, _DEPTH, _WIDTH, _CLOUD_BATCH, _ATTACKER_BATCH, _REPEATS, _QUICK)
    values = {flag.name: flag.value for flag in kept} | changed
    return [f"--{name}={value}" for name, value in values.items()]


def _peak(execution: Execution) -> dict[str, Any] | None:
    gflops, of = _PEAKS.get(execution.devices[0].device_kind, (None, None))
    return gflops and {"gflops": gflops * len(execution.devices), "of": of}


def _as_text(report: dict[str, Any]) -> str:
    product, peak = report["matrix_product"], report["peak"]
    lines = [
        f"{report['environment']}, {report['devices']} devices, {report['cores']} cores",
        f"float32 matrix product: {product['gflops']:.0f} GFLOP/s"
        f" (best {product['gflops_best']:.0f})"
        + (f"; peak ({peak['of']}) {peak['gflops']} GFLOP/s" if peak else ""),
    ]
    columns_of = {name: table[0] for name, table in _TABLES.items()}
    for part, columns in {**columns_of, "scaling": _SCALING_COLUMNS}.items():
        if part in report:
            lines += ["", part, *_table(columns, report[part])]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = [list(columns), *([_shown(name, row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if name.endswith("share"):
        return f"{100 * value:.0f} %"
    return f"{value:.0f}" if value >= 10 else f"{value:.3g}"


def _rows(parts: Sequence[str], setup: Setup) -> int:
    layers = len(setup.layers)
    extraction = layers + 1 + (layers > 1)
    counts = {"extraction": extraction, "training": 2 * layers, "tuning": layers}
    return sum(counts.get(part, len(_scaling_devices())) for part in parts)


def _scaling_devices() -> tuple[int, ...]:
    return _SCALING_DEVICES[:2] if _QUICK.value else _SCALING_DEVICES


def _repeats() -> int:
    return min(2, _REPEATS.value) if _QUICK.value else _REPEATS.value


def _setup_from_flags() -> Setup:
    # One layer is quick; more are where somebody asks for them.
    layers = (4,) if _QUICK.value and not _LAYERS.present else cli.whole_numbers(_LAYERS)
    # Refuses layers, depths and sizes that no characterisation could have.
    Config(Path(), layers=layers, depths=(_DEPTH.value,), image_size=_IMAGE_SIZE.value).cells()
    setup = Setup(
        layers=tuple(sorted(layers)),
        image_size=_IMAGE_SIZE.value,
        depth=_DEPTH.value,
        width=_WIDTH.value,
        cloud_batch=_CLOUD_BATCH.value,
        attacker_batch=_ATTACKER_BATCH.value,
    )
    return dataclasses.replace(setup, images=100, steps=4) if _QUICK.value else setup


def _checked_parts(parts: Sequence[str]) -> Sequence[str]:
    allowed = [*_TABLES, "scaling"]
    if not parts or set(parts) - set(allowed) or len(set(parts)) < len(parts):
        raise UserError(f"--parts={','.join(parts)}; allowed are, once each: {', '.join(allowed)}")
    return parts


def _checked_target(path: str | None) -> Path | None:
    if path is None:
        return None
    return checked_file("json", path)


if __name__ == "__main__":
    cli.run(main)

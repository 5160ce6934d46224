"""Measures how close a characterisation comes to what the machine can multiply, and to PyTorch.

    python -m experiments.benchmark --json=benchmark.json

Extraction by number of layers and for all in one pass; training of cloud NN and attacker through
the trainer; candidates of a tuning beside cells; scoring, white-box optimisation and decoding.
Every share is of the float32 matrix-product rate measured right before and after.

    python -m experiments.benchmark --parts=torch --compiled

The same networks in PyTorch, in turn; --parts=psnr trains there until images are rebuilt as well.

    python -m experiments.benchmark --accelerator --out=results

All that is to be known of an accelerator, a JSON file per part; run again, it goes on.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.benchmarking import (
    against_torch,
    device_parts,
    equal_psnr,
    evaluation_parts,
    parts,
)
from experiments.benchmarking.accelerators import command as accelerator
from experiments.benchmarking.inputs import Row, Setup
from experiments.benchmarking.timing import Clock
from privynet_jax import Config, UserError
from privynet_jax.platform.devices import (
    Execution,
    environment,
    execution_for,
    use_cpu_devices,
)
from privynet_jax.platform.files import write_atomically, written_new
from privynet_jax.platform.progress import Bar
from privynet_jax.results.cells import check_values
from privynet_jax.results.text_tables import aligned

cli.key_flags("cache_dir data_dir out")
_JSON = flags.DEFINE_string("json", None, "File for all numbers.")
_MEASURED: Mapping[str, Callable[[Setup, Clock, Execution], Iterator[Row]]] = {
    part.__name__: part
    for part in (
        parts.extraction,
        parts.training,
        parts.tuning,
        evaluation_parts.evaluation,
        evaluation_parts.white_box,
        parts.decoding,
        device_parts.device,
        against_torch.torch,
        equal_psnr.psnr,
    )
}
_BESIDE_TORCH = ("torch", "psnr")
_USUAL = [part for part in _MEASURED if part not in _BESIDE_TORCH]
_PARTS = flags.DEFINE_list("parts", _USUAL, f"What is measured, of {', '.join(_MEASURED)}.")
_COMPILED = flags.DEFINE_boolean("compiled", False, "Part torch: with `torch.compile` as well.")
_LAYERS = flags.DEFINE_list("layers", list(map(str, Setup.layers)), "Numbers of layers, 1..13.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", Setup.image_size, "Side of images in pixels.")
_DEPTH = flags.DEFINE_integer("depth", Setup.depth, "Released channels.", 1, 64)
_WIDTH = flags.DEFINE_integer("width", Setup.width, "Channels of the cloud NN.", 1)
_TIMES = flags.DEFINE_float(
    "times", Setup.times, "Part psnr: times the seconds here that PyTorch may train.", 1.0
)
_ATTACKER_STEPS = flags.DEFINE_integer(
    "attacker_steps", Setup.attacker_steps, "Part psnr: mini-batches for the attacker.", 2
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Samples, each between two matrix products.", 1)
_DEVICES = flags.DEFINE_integer("devices", 0, "CPU devices; 0: one per core.", 0)
_QUICK = flags.DEFINE_boolean("quick", False, "Rough numbers within a minute.")
_ACCELERATOR = flags.DEFINE_boolean(
    "accelerator", False, f"Parts {', '.join(accelerator.PARTS)} in --out, each in its own process."
)
_MINUTES = flags.DEFINE_float("minutes", 9.0, "With --accelerator: no longer than this.", 0.01)
_AGAIN = flags.DEFINE_boolean("again", False, "With --accelerator: also what is in --out.")
_PACKED = flags.DEFINE_string(
    "packed", None, "With --accelerator: folder of experiments.benchmarking.pack; default: fetch."
)

# More than any machine has; on accelerators each device holds as many cells as it may.
_MANY = 2**16
_CELLS_PER_DEVICE = 8


def main() -> None:
    if _ACCELERATOR.value:
        accelerator.run(
            folder=cli.needed_folder(cli.OUT),
            scratch=cli.folder("cache_dir", cli.CACHE_DIR.value),
            packed=cli.folder("packed", _PACKED.value) if _PACKED.value else None,
            parts=_PARTS.value if _PARTS.present else tuple(accelerator.PARTS),
            quick=_QUICK.value,
            minutes=_MINUTES.value,
            again=_AGAIN.value,
        )
        return
    cli.use_cpu_cores(at_most=_MANY)
    if _DEVICES.value:
        use_cpu_devices(_DEVICES.value)
    # Checked only now, because channels are drawn for it, and JAX then starts.
    setup, chosen = _setup_from_flags(), _PARTS.value
    check_values("--parts", chosen)
    if set(chosen) - set(_MEASURED):
        raise UserError(f"--parts={','.join(chosen)}; allowed are {', '.join(_MEASURED)}")
    if set(chosen) & set(_BESIDE_TORCH) and not importlib.util.find_spec("torch"):
        raise UserError(
            f"--parts={','.join(chosen)} compares with PyTorch, which is not installed; "
            "pip install '.[torch]'"
        )
    target = cli.new_file(_JSON) if _JSON.value else None
    devices = execution_for(_MANY, _MANY).devices
    execution = execution_for(max(2, _CELLS_PER_DEVICE * len(devices)), _MANY)
    if devices[0].platform != "cpu":
        setup = dataclasses.replace(setup, peer_device="cuda")
    report = _run(setup, chosen, execution)
    print(_as_text(report))
    if target:
        content = json.dumps(report, indent=1) + "\n"
        where = written_new(target, functools.partial(write_atomically, data=content))
        print(f"All numbers are in {where}.")


def _run(setup: Setup, chosen: Sequence[str], execution: Execution) -> dict[str, Any]:
    on_cpu = execution.devices[0].platform == "cpu"
    size = (1024 if _QUICK.value else 2048) if on_cpu else 8192
    repeats = min(2, _REPEATS.value) if _QUICK.value else _REPEATS.value
    clock = Clock(execution, size, repeats, 0.05 if _QUICK.value else 0.4)
    report: dict[str, Any] = {
        "environment": environment(),
        "cores": os.cpu_count(),
        "devices": len(execution.devices),
        "cells_per_device": execution.cells_per_device,
        "settings": dataclasses.asdict(setup),
    }
    if set(chosen) & set(_BESIDE_TORCH):
        report["peer"] = against_torch.start(setup)
    with Bar(desc="measuring", unit="row") as bar:
        for part in chosen:
            report[part] = []
            for row in _MEASURED[part](setup, clock, execution):
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


def _as_text(report: dict[str, Any]) -> str:
    product = report["matrix_product"]
    lines = [
        f"{report['environment']}, {report['devices']} devices, {report['cores']} cores",
        *filter(None, [report.get("peer")]),
        f"float32 matrix product: {product['gflops']:.0f} GFLOP/s"
        f" (best {product['gflops_best']:.0f})",
    ]
    for part in filter(report.get, _MEASURED):
        shown = [
            {name: _shown(name, x) for name, x in row.items() if not isinstance(x, list)}
            for row in report[part]
        ]
        lines += ["", part, aligned(shown)]
    return "\n".join(lines)


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    if name.endswith("share"):
        return f"{100 * value:.0f} %"
    return f"{value:.0f}" if value >= 10 else f"{value:.3g}"


def _setup_from_flags() -> Setup:
    # One layer is quick; more are where somebody asks for them.
    layers = (4,) if _QUICK.value and not _LAYERS.present else cli.whole_numbers(_LAYERS)
    # Refuses layers, depths and sizes that no characterisation could have.
    Config(Path(), layers=layers, depths=(_DEPTH.value,), image_size=_IMAGE_SIZE.value).cells()
    setup = Setup(tuple(sorted(layers)), _IMAGE_SIZE.value, _DEPTH.value, _WIDTH.value)
    setup = dataclasses.replace(
        setup,
        compiled=_COMPILED.value,
        cache_dir=str(cli.cache_folder()),
        data_dir=str(data_dir) if (data_dir := cli.data_folder()) else None,
        attacker_steps=_ATTACKER_STEPS.value,
        times=_TIMES.value,
    )
    return dataclasses.replace(setup, images=100, steps=4) if _QUICK.value else setup


if __name__ == "__main__":
    cli.run(main)

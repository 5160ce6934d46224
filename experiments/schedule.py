r"""Moves the cut from picture to picture, as bandwidth and load change: simulated over traces.

    python -m experiments.schedule --workdir=runs/story --max_psnr_db=25 --out=runs/schedule

Of a finished characterisation it takes the cuts that keep --max_psnr_db, with the planner's margin,
and lets an on-line policy choose one for each picture: the one of least energy that it expects to
keep the deadline. Beside it stand the best fixed cut in hindsight, and the clairvoyant optimum.
Times are measured, here or by --latency; energy is modelled; traces are generated, or CSV files.
Writes schedule.csv and schedule.png. A picture is released at one cut only.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import cli
from experiments.reporting.schedules import Scheduled, schedule_picture
from privynet_jax import Limits, UserError
from privynet_jax.characterisation.modes import AMORTISED
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.planning import planner
from privynet_jax.planning.explanation import refusal
from privynet_jax.planning.latency import Meter
from privynet_jax.planning.options import Option
from privynet_jax.planning.topology_plan import characterised_cells
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.rows.coding import DTYPES
from privynet_jax.results.text_tables import aligned, as_csv
from privynet_jax.scheduling import energy, policies
from privynet_jax.scheduling.device_profile import CutProfile, profile_of
from privynet_jax.scheduling.simulation import Demand, simulate
from privynet_jax.scheduling.traces import KINDS, Trace, generated, read_trace

cli.key_flags("workdir out latency max_psnr_db")
_LEAST_ACCURACY = flags.DEFINE_float(
    "least_accuracy", 0.0, "Least expected balanced accuracy of a cut.", 0.0, 1.0
)
_TRACES = flags.DEFINE_list(
    "traces", list(KINDS), f"Generated ones ({', '.join(KINDS)}) and CSV files."
)
_SECONDS = flags.DEFINE_integer("trace_seconds", 600, "Length of generated traces.")
_SEED = flags.DEFINE_integer("trace_seed", 0, "Of generated traces.", 0, cli.MOST_SEED)
_MBIT = flags.DEFINE_float("mbit_per_s", 6.0, "Usual bandwidth of generated traces.")
_DEMAND = {
    "every_s": flags.DEFINE_float("every_ms", 1000.0, "From one picture to the next."),
    "deadline_s": flags.DEFINE_float("deadline_ms", 200.0, "From a picture to its answer."),
    "round_trip_s": flags.DEFINE_float("round_trip_ms", 50.0, "Of the network, without bytes."),
    "cloud_s": flags.DEFINE_float("cloud_ms", 5.0, "Of the cloud NN."),
}
_SLOWER = flags.DEFINE_float(
    "times_slower", 1.0, "How many times as long as measured a device takes that is not at hand."
)
_DTYPE = flags.DEFINE_enum("released_as", "float32", DTYPES, "How releases store values.")
_RADIO = flags.DEFINE_enum("radio", "lte", list(energy.RADIOS), "Whose power the model takes.")
_RADIO_FIGURES = {
    "mw_per_mbit_s": flags.DEFINE_float("mw_per_mbit_s", None, "In place of the --radio's own."),
    "base_mw": flags.DEFINE_float("base_mw", None, "While sending, in place of the --radio's own."),
}
_MAC = flags.DEFINE_float("pj_per_mac", energy.PJ_PER_MAC, "Energy of a multiply-accumulate.")
_WEIGHT = flags.DEFINE_float(
    "pj_per_weight_byte", energy.PJ_PER_WEIGHT_BYTE, "Energy of a weight's byte, out of DRAM."
)
_REMEMBERED = flags.DEFINE_integer("remembered", 2, "Pictures that the on-line policy looks back.")
_QUANTILE = flags.DEFINE_float("quantile", 0.0, "Of those, from the worst: how careful it is.")


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    demand = Demand(**{name: flag.value / 1e3 for name, flag in _DEMAND.items()})
    model, caution = _model(), policies.Caution(_REMEMBERED.value, _QUANTILE.value)
    traces, meter = _traces(), Meter(cli.latencies())
    options, config = _kept()
    cuts = _profiles(options, meter, model, config["image_size"])
    rows, scheduled = [], []
    for trace in traces:
        found = simulate(trace, cuts, demand, model)
        chosen = {
            policies.FIXED: policies.choose_fixed(found),
            policies.ONLINE: policies.choose_online(found, cuts, demand, model, caution),
            policies.CLAIRVOYANT: policies.choose_clairvoyant(found),
        }
        scores = {name: policies.score(own, found, cuts) for name, own in chosen.items()}
        scheduled.append(Scheduled(trace, found.arrivals, chosen[policies.ONLINE], scores))
        rows += [_row(trace, name, own) for name, own in scores.items()]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "schedule.csv", as_csv(rows))
    write_atomically(out / "schedule.png", schedule_picture(scheduled, [c.name for c in cuts]))
    print(aligned([_profile_line(cut) for cut in cuts]))
    print(f"\n{_told(traces, demand, meter.where, config['mode'])}\n{model.told()}\n")
    print(aligned([_line(row) for row in rows]))
    print(f"\nschedule.csv and schedule.png are in {out}.")


def _model() -> energy.EnergyModel:
    given = {name: flag.value for name, flag in _RADIO_FIGURES.items() if flag.value is not None}
    radio = dataclasses.replace(energy.RADIOS[_RADIO.value], **given)
    return energy.EnergyModel(radio, _MAC.value, _WEIGHT.value)


def _traces() -> list[Trace]:
    """Those that --traces names: kinds, and files by their paths."""
    settings = _SECONDS.value, _MBIT.value, _SEED.value
    found = []
    for name, path in zip(_TRACES.value, cli.paths(_TRACES), strict=True):
        is_file = name not in KINDS and path.is_file()
        found.append(read_trace(path) if is_file else generated(name, *settings))
    if len({trace.name for trace in found}) < len(found) or not found:
        raise UserError(
            f"--traces={','.join(_TRACES.value)}: give traces of different names, at least one"
        )
    return found


def _kept() -> tuple[list[Option], Mapping[str, Any]]:
    """The options that keep the privacy limit and are accurate enough, and the settings."""
    grid = characterised_cells(cli.needed_folder(cli.WORKDIR))
    limits = Limits(psnr_db=cli.MAX_PSNR_DB.value)
    decision = planner.choose(grid.options(limits.statistic), limits)
    if not decision.feasible:
        raise UserError(refusal(decision))
    accurate = [o for o in decision.feasible if o.merit >= _LEAST_ACCURACY.value]
    if not accurate:
        raise UserError(
            f"--least_accuracy={_LEAST_ACCURACY.value:g} is more than {decision.merit:.3f}, which "
            "the best cut within the privacy limit is expected to have; give less"
        )
    return sorted(accurate, key=lambda option: option.shape), grid.config


def _profiles(
    options: Sequence[Option], meter: Meter, model: energy.EnergyModel, image_size: int
) -> list[CutProfile]:
    if _SLOWER.value <= 0:
        raise UserError(f"--times_slower is {_SLOWER.value}; allowed are positive numbers")
    if _DTYPE.value == "uint8" and any(option.mechanism != NONE for option in options):
        raise UserError("--released_as=uint8 holds no noise; give float16 or float32")
    found = []
    for option in options:
        topology = option.topology(range(option.depth))
        milliseconds = meter.measure(topology, image_size, option.mechanism)
        given = option, _SLOWER.value * milliseconds, model, image_size
        found.append(profile_of(*given, dtype=_DTYPE.value))
    return found


def _told(traces: Sequence[Trace], demand: Demand, where: str, mode: str) -> str:
    """What the table below rests on."""
    whose = "that of its layer's amortised" if mode == AMORTISED else "its own"
    slower = f", taken {_SLOWER.value:g} times" if _SLOWER.value != 1 else ""
    generated_ones = [trace.name for trace in traces if trace.is_generated]
    read = [trace.name for trace in traces if not trace.is_generated]
    kept = ""
    if cli.MAX_PSNR_DB.value is not None:
        kept = (
            "Cuts keep the privacy limit by what the characterisation's attackers let expect, with "
            "the planner's margin: plan measures more. "
        )
    lines = (
        f"{kept}Each cut's cloud NN is {whose} "
        f"({mode} characterisation). Times are of {where}{slower}.",
        f"{demand.told()}; a picture is given up at its deadline.",
        f"Generated traces: {', '.join(generated_ones)}." if generated_ones else "",
        f"Read from files: {', '.join(read)}." if read else "",
    )
    return "\n".join(filter(None, lines))


def _profile_line(cut: CutProfile) -> dict[str, Any]:
    return {
        "cut": cut.name,
        "on the device ms": 1e3 * cut.local_s,
        "mJ": cut.local_mj,
        "KiB": cut.mbit * 1e6 / 8 / 1024,
        "balanced accuracy %": 100 * cut.accuracy,
        "PSNR dB": cut.loss_db,
    }


def _row(trace: Trace, policy: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    shares = " ".join(f"{name}={share:.3f}" for name, share in scores["cuts"].items())
    return {
        "trace": trace.name,
        "generated": trace.is_generated,
        "policy": policy,
        **scores,
        "cuts": shares,
    }


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for people: the commonest cuts alone."""
    often = sorted(row["cuts"].split(), key=lambda one: -float(one.partition("=")[2]))
    return {
        "trace": row["trace"],
        "policy": row["policy"],
        "mJ per picture": row["energy_mj"],
        "in time %": 100 * row["in_time"],
        "missed %": 100 * row["missed"],
        "unmeetable %": 100 * row["unmeetable"],
        "accuracy %": 100 * row["accuracy"],
        "regret mJ": row["regret_mj"],
        "cuts": ", ".join(often[:4]) + (", ..." if len(often) > 4 else ""),
    }


if __name__ == "__main__":
    cli.run(main)

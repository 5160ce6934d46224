"""The file of a plan: written for its owner alone, and read only as it was written.

It carries a checksum: a plan that was changed by hand makes promises that nobody measured, so it is
refused. (Somebody who computes the checksum anew is not kept out by it; even then the channels must
be those that the seed draws, in its order.) It holds the user's secrets, so nobody else may read
it. No JAX here.

    write_plan(Path("plan.json"), plan)
    read_plan(Path("plan.json")).topology
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.planning.plan import Expectation, Limits, Plan, is_number
from privynet_jax.platform.digests import read_sealed, sealed
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.statistics import Interval
from privynet_jax.selection.secret_draw import Selection

_VERSION = 1
_GIVE = "give the plan.json that experiments.plan wrote"


def write_plan(path: Path, plan: Plan) -> None:
    """Writes a plan whole, readable by the user alone.

    Raises:
        ValueError: the plan is one that `read_plan` would not take.
    """
    if wrong := _wrong_fields(plan):
        raise ValueError(f"Expected a plan that can be read again, got one with {wrong}")
    content = {"version": _VERSION, **dataclasses.asdict(plan)}
    write_atomically(path, sealed(content), private=True)


def read_plan(path: Path) -> Plan:
    """Returns the plan of a file.

    Raises:
        UserError: the file cannot be read, is no plan, is of another version, was changed, or
            makes no sense.
    """
    try:
        content, is_unchanged = read_sealed(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {_GIVE}") from None
    except ValueError:
        raise UserError(f"{path} is no plan; {_GIVE}") from None
    if not is_unchanged:
        raise UserError(
            f"{path} was changed after it was planned, so its promises are nobody's; "
            "give the file as experiments.plan wrote it, or plan again"
        )
    if content.pop("version", None) != _VERSION:
        raise UserError(f"{path} is a plan of another version of privynet_jax; plan again")
    # Somebody may have computed the checksum of something else anew.
    try:
        plan = _from_json(content)
        wrong = _wrong_fields(plan)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        wrong = f"fields that make no plan ({type(error).__name__}: {error})"
    if wrong:
        raise UserError(f"{path} has {wrong}; plan again")
    return plan


def _from_json(content: dict[str, Any]) -> Plan:
    selection, expected = content["selection"], content["expected"]
    return Plan(
        **{
            **content,
            **{name: tuple(content[name]) for name in ("class_names", "scales", "peaks", "sample")},
            "topology": Topology(**content["topology"]),
            "selection": Selection(**{**selection, "candidates": tuple(selection["candidates"])}),
            "limits": Limits(**content["limits"]),
            "expected": Expectation(**{name: Interval(**expected[name]) for name in expected}),
        }
    )


def _wrong_fields(plan: Plan) -> str:
    """What a plan's fields have that no plan has, in words; empty where nothing is wrong."""
    depth, selection, expected = plan.topology.depth, plan.selection, plan.expected
    intervals = (expected.accuracy, expected.psnr_db, expected.ssim)
    latency = plan.latency_ms
    texts = (selection.method, plan.weights, plan.weights_fingerprint, plan.latency_on)
    texts += plan.class_names + plan.sample
    channels = plan.topology.layer.channels
    checks = {
        "texts that are none": all(isinstance(text, str) for text in texts),
        "intervals that are none": all(map(_is_interval, intervals)),
        "scales or peaks that are not one positive number per channel": all(
            len(numbers) == depth and all(is_number(x) and x > 0 for x in numbers)
            for numbers in (plan.scales, plan.peaks)
        ),
        "an image size that is no positive integer": type(plan.image_size) is int
        and plan.image_size > 0,
        "a latency that is no positive number": latency is None
        or (is_number(latency) and latency > 0),
        "settings that are none": _has_settings(plan.characterised),
        "a seed that is not 64 hexadecimal digits": isinstance(selection.seed, str)
        and bool(re.fullmatch("[0-9a-f]{64}", selection.seed)),
        "candidates that are no distinct channels": all(
            type(c) is int and 0 <= c < channels for c in selection.candidates
        )
        and len(set(selection.candidates)) == len(selection.candidates),
        "an entropy that is no number": is_number(selection.entropy_bits),
    }
    wrong = [words for words, is_right in checks.items() if not is_right]
    if not wrong and selection.channels(depth) != plan.topology.channels:
        wrong = ["channels that its seed does not draw, or not in this order"]
    return ", ".join(wrong)


def _is_interval(interval: Interval) -> bool:
    numbers = (interval.value, interval.low, interval.high)
    return all(map(is_number, numbers)) and interval.low <= interval.high


def _has_settings(characterised: Any) -> bool:
    try:
        json.dumps(characterised, allow_nan=False)
        return type(characterised["settings"]["seed"]) is int
    except (TypeError, ValueError, KeyError):
        return False

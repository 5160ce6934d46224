"""A plan: the chosen local NN, what it promises, and the secrets that go with it; and its file.

`planner` chooses, `experiments.plan` writes the file, and whoever packs, audits or releases reads
it. The file carries a checksum: a plan that was changed by hand makes promises that nobody
measured, so it is refused. (Somebody who computes the checksum anew is not kept out by it.) It
holds the user's secrets (which channels, and the seed that drew them), so nobody else may read it.
No JAX here.

    write_plan(Path("plan.json"), plan)
    read_plan(Path("plan.json")).topology
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privynet_jax.cost import local_cost
from privynet_jax.errors import UserError
from privynet_jax.files import write_atomically
from privynet_jax.topology import CONV_LAYERS, Topology

_VERSION = 1
# Of privacy loss over images: the usual picture, one in two, twenty, a hundred, and the worst one.
STATISTICS = ("mean", "median", "p95", "p99", "max")
_SEED_BITS = 256
_BYTES_PER_KEY = 16  # so many that two are never equal


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a plan must keep to; None sets no limit.

    Attributes:
        psnr_db: privacy loss, peak 1.0, of the strongest attacker.
        ssim: likewise.
        local_mmacs: millions of multiply-accumulates per image.
        storage_mib: parameters of the local NN, as float32.
        release_kib: representation of one image, as float32.
        latency_ms: of the local NN on one image.
        statistic: of privacy loss over images, one of `STATISTICS`.

    Raises:
        UserError: a limit is not a positive number, or the statistic is unknown.
    """

    psnr_db: float | None = None
    ssim: float | None = None
    local_mmacs: float | None = None
    storage_mib: float | None = None
    release_kib: float | None = None
    latency_ms: float | None = None
    statistic: str = "mean"

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if not (_is_number(value) and value > 0):
                raise UserError(
                    f"the limit {name} is {value!r}; allowed are positive numbers; "
                    "leave it out for no limit"
                )
        if self.statistic not in STATISTICS:
            raise UserError(
                f"statistic is {self.statistic!r}; allowed are {', '.join(STATISTICS)}; "
                "mean is the usual choice"
            )

    def given(self) -> dict[str, float]:
        """Returns limit -> value, of those that are set."""
        values = dataclasses.asdict(self)
        return {
            name: value for name, value in values.items() if name in LIMITS and value is not None
        }


LIMITS = tuple(field.name for field in dataclasses.fields(Limits) if field.name != "statistic")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number as expected, and the interval over draws of channels that it should fall in."""

    expected: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What the characterisation makes of a plan.

    Attributes:
        accuracy: of the cloud NN on unseen images, in [0, 1].
        psnr_db: privacy loss by the limits' statistic; `high` is what the planner held against
            the limit.
        ssim: likewise.
    """

    accuracy: Interval
    psnr_db: Interval
    ssim: Interval


@dataclasses.dataclass(frozen=True)
class Selection:
    """How the released channels were chosen. All of it is secret.

    Attributes:
        method: of `selection.METHODS`.
        candidates: channels that the others are drawn from, ascending.
        seed: 64 hexadecimal digits, which decide the draw.
        entropy_bits: of the draw, for somebody who knows everything but the seed.
        core: channels that are released whatever the seed, ascending; empty but for `direct`.
    """

    method: str
    candidates: tuple[int, ...]
    seed: str
    entropy_bits: float
    core: tuple[int, ...] = ()

    def channels(self, depth: int) -> tuple[int, ...]:
        """Returns the channels that the seed draws, ascending; `draw_secretly` has the terms."""
        drawn = draw_secretly(self.candidates, depth - len(self.core), self.seed)
        return tuple(sorted((*self.core, *drawn)))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A topology with what it promises.

    Attributes:
        topology: layers and released channels; the channels are secret.
        selection: how the channels came to be chosen.
        limits: what was asked for.
        expected: what may be expected.
        image_size: side of the images, in pixels.
        class_names: of the user's own pictures, in the order of their labels.
        scales: per released channel, what representations are multiplied by before release.
        peaks: per released channel, the largest value, after that, which a byte of a release holds.
        weights: as `weights.load_weights` takes it.
        weights_fingerprint: of the parameters.
        latency_ms: measured on one image; None where it was not.
        latency_on: where that was measured, in words.
        characterised: where the expectations come from: "data", "mode", "seed", "attacker_steps",
            "cloud_steps" and whatever else of the settings of the work directory matters.
        sample: digests of the user's pictures that the planner saw; an audit leaves them out.
    """

    topology: Topology
    selection: Selection
    limits: Limits
    expected: Expectation
    image_size: int
    class_names: tuple[str, ...]
    scales: tuple[float, ...]
    peaks: tuple[float, ...]
    weights: str
    weights_fingerprint: str
    latency_ms: float | None
    latency_on: str
    characterised: Mapping[str, Any]
    sample: tuple[str, ...]

    @property
    def cost(self) -> dict[str, float]:
        """What the local NN costs, in the units of `Limits`; latency where it was measured."""
        return costs_of(self.topology, self.image_size) | (
            {} if self.latency_ms is None else {"latency_ms": self.latency_ms}
        )

    def check_weights(self, fingerprint: str, source: str) -> None:
        """Raises UserError unless these are the weights that the plan was made with.

        Args:
            fingerprint: of the parameters.
            source: what they were loaded from, for the message.
        """
        if fingerprint != self.weights_fingerprint:
            raise UserError(
                f"the weights {source} have fingerprint {fingerprint}, but the plan was made with "
                f"{self.weights_fingerprint} (of {self.weights}), and its promises hold for those "
                "alone; give them as --weights, or plan again with the others"
            )


def costs_of(topology: Topology, image_size: int) -> dict[str, float]:
    """Returns limit -> what a topology costs, in the units of `Limits`, as `cost` counts it."""
    cost = local_cost(topology, image_size)
    return {
        "local_mmacs": cost.macs / 1e6,
        "storage_mib": cost.param_bytes / 2**20,
        "release_kib": cost.release_bytes / 2**10,
    }


def draw_secretly(candidates: tuple[int, ...], depth: int, seed: str) -> tuple[int, ...]:
    """Returns `depth` of the candidates, ascending, every subset with equal probability.

    Args:
        candidates: channels.
        depth: how many to draw.
        seed: 64 hexadecimal digits, such as `secrets.token_hex(32)`; it decides the draw.
    """
    # The order of hashed numbers, rather than NumPy's permutation: that may change from version to
    # version, and its seeding would keep 128 of the 256 bits.
    ordered = sorted(candidates)
    stream = hashlib.shake_256(bytes.fromhex(seed)).digest(_BYTES_PER_KEY * len(ordered))
    starts = range(0, len(stream), _BYTES_PER_KEY)
    keys = [stream[start : start + _BYTES_PER_KEY] for start in starts]
    drawn = sorted(range(len(ordered)), key=keys.__getitem__)[:depth]
    return tuple(int(ordered[place]) for place in sorted(drawn))


def entropy_bits(candidates: int, depth: int) -> float:
    """Returns log2 of the number of subsets of `depth` out of so many candidates.

    A seed of 256 bits cannot draw more than 2^256 of them, so that is the most it returns.
    """
    return min(math.log2(math.comb(candidates, depth)), float(_SEED_BITS))


def write_plan(path: Path, plan: Plan) -> None:
    """Writes a plan whole, readable by the user alone.

    Raises:
        ValueError: the plan is one that `read_plan` would not take.
    """
    if wrong := _wrong_fields(plan):
        raise ValueError(f"Expected a plan that can be read again, got one with {wrong}")
    content = {"version": _VERSION, **dataclasses.asdict(plan)}
    text = json.dumps({**content, "sha256": _digest(content)}, indent=1) + "\n"
    write_atomically(path, text, private=True)


def read_plan(path: Path) -> Plan:
    """Returns the plan of a file.

    Raises:
        UserError: the file is missing, is no plan, is of another version, was changed, or makes no
            sense.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_unchanged = content.pop("sha256") == _digest(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path} is no plan; give the plan.json that experiments.plan wrote"
        ) from None
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
            "selection": Selection(
                **{
                    **selection,
                    **{name: tuple(selection[name]) for name in ("core", "candidates")},
                },
            ),
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
    pool = (*selection.core, *selection.candidates)
    channels = CONV_LAYERS[plan.topology.num_layers - 1].out_channels
    checks = {
        "texts that are none": all(isinstance(text, str) for text in texts),
        "class names or digests that are no texts": all(
            isinstance(text, str) for text in (*plan.class_names, *plan.sample)
        ),
        "intervals that are none": all(map(_is_interval, intervals)),
        "scales or peaks that are not one positive number per channel": all(
            len(numbers) == depth and all(_is_number(x) and x > 0 for x in numbers)
            for numbers in (plan.scales, plan.peaks)
        ),
        "an image size that is no positive integer": type(plan.image_size) is int
        and plan.image_size > 0,
        "a latency that is no positive number": latency is None
        or (_is_number(latency) and latency > 0),
        "settings that are none": _is_json_object(plan.characterised),
        "a seed that is not 64 hexadecimal digits": isinstance(selection.seed, str)
        and bool(re.fullmatch("[0-9a-f]{64}", selection.seed)),
        "candidates that are no distinct channels": all(
            type(c) is int and 0 <= c < channels for c in pool
        )
        and len(set(pool)) == len(pool)
        and len(selection.core) <= depth,
        "an entropy that is no number": _is_number(selection.entropy_bits),
    }
    wrong = [words for words, is_right in checks.items() if not is_right]
    if not wrong and selection.channels(depth) != plan.topology.channels:
        wrong = ["channels that its seed does not draw"]
    return ", ".join(wrong)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and -math.inf < value < math.inf


def _is_interval(interval: Interval) -> bool:
    numbers = (interval.expected, interval.low, interval.high)
    return all(map(_is_number, numbers)) and interval.low <= interval.high


def _is_json_object(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return isinstance(value, Mapping)


def _digest(content: Mapping[str, Any]) -> str:
    # As read back from JSON, where tuples are lists and keys are text.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

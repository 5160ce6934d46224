"""A plan: the chosen local NN, what it promises, and the secrets that go with it; and its file.

`planner` chooses under `Limits`, and whoever packs, audits or releases reads a `Plan`. Its file has
a checksum: a plan that was changed by hand makes promises that nobody measured. Somebody who
computes that anew is not kept out by it; even then types bound every field, and the channels must
be those that the seed draws, in its order. No JAX here.

    limits = Limits(psnr_db=22.0, local_mmacs=160.0)
    plan.topology, plan.cost, plan.settings["seed"]
    write_plan(Path("plan.json"), plan)
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privynet_jax.backbone.topology import Topology, local_cost
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.platform.documents import (
    Count,
    Hex64,
    Positive,
    Share,
    Text,
    checked,
    read_document,
    write_document,
)
from privynet_jax.results.statistics import Interval
from privynet_jax.selection.secret_draw import Selection

# Of privacy loss over images: the usual picture, and what all but one in two, twenty or a hundred
# stay under. Nothing can be said of the worst one of pictures that nobody has seen.
STATISTICS = ("mean", "median", "p95", "p99")
_VERSION = 6
_REMEDY = "give the plan.json that experiments.plan wrote, or plan again"


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
        epsilon: of local differential privacy of one release; see `mechanisms.guarantees`.
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
    epsilon: float | None = None
    statistic: str = "mean"

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            is_real = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_real and 0 < value < math.inf):
                raise UserError(
                    f"the limit {name} is {value!r}; allowed are positive numbers; "
                    "leave it out for no limit"
                )
        if self.statistic not in STATISTICS:
            raise UserError(
                f"statistic is {self.statistic!r}; allowed are {', '.join(STATISTICS)}; "
                "mean is the usual choice, and p99 the strictest that can be promised"
            )

    def given(self) -> dict[str, float]:
        """Returns limit -> value, of those that are set."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}


EPSILON = "epsilon"
LIMITS = tuple(field.name for field in dataclasses.fields(Limits) if field.name != "statistic")


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What the characterisation makes of a plan: numbers, and intervals for a new draw of channels.

    Of the selection direct, which draws none, they are for a new training.

    Attributes:
        accuracy: of the cloud NN on unseen images, in [0, 1].
        balanced_accuracy: the mean over classes, by which plans are chosen: classes that are not
            equally frequent count alike.
        psnr_db: privacy loss by the limits' statistic, of the characterisation's attackers. Where
            the drawn channels were not attacked themselves, the planner holds `high` against the
            limit, with the margin.
        ssim: likewise.
        commonest_class_share: the accuracy of always answering the commonest class.
        psnr_db_limit: as `psnr_db`, once the attackers are trained ten times as long, extrapolated;
            None where the characterisation does not tell.
    """

    accuracy: Interval
    balanced_accuracy: Interval
    psnr_db: Interval
    ssim: Interval
    commonest_class_share: Share
    psnr_db_limit: Interval | None = None

    def __post_init__(self) -> None:
        intervals = (self.accuracy, self.balanced_accuracy, self.psnr_db, self.ssim)
        for interval in (*intervals, self.psnr_db_limit):
            if interval and not interval.low <= interval.high:
                raise UserError(f"an interval from {interval.low} to {interval.high}")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an attacker made of the very channels that a plan releases, before it was written.

    Attributes:
        attacker: its name, as results call it.
        psnr_db: by the limits' statistic; of percentiles, what at least that share of new pictures
            stays under, with 95 % confidence, if pictures are independent of one another.
        ssim: likewise.
        images: of the sample, that were attacked.
        draws: subsets that were drawn and measured until one kept the limits, this one included.
    """

    attacker: Text
    psnr_db: float
    ssim: float
    images: Count
    draws: Count

    def __post_init__(self) -> None:
        if not (math.isfinite(self.psnr_db) and math.isfinite(self.ssim)):
            raise UserError("a measured privacy loss that is not finite")


@dataclasses.dataclass(frozen=True)
class Promise:
    """What episodes say of plans that are made like this one; see `promise`.

    Attributes:
        episodes: sources of pictures that plans were made for, and audited on.
        kept: of these, those that needed no larger margin.
        proven: the share of further sources that is proven by that not to, with 95 % confidence.
    """

    episodes: Count
    kept: int
    proven: Share

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= self.episodes:
            raise UserError(f"{self.kept} of {self.episodes} episodes were kept")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A topology with what it promises.

    Attributes:
        id: drawn when the plan is made, and no secret: it says what belongs together.
        topology: backbone, layers and released channels, in a secret order; unless the selection is
            direct, the channels themselves are drawn in secret too.
        selection: how the channels came to be chosen.
        limits: what was asked for.
        expected: what may be expected.
        image_size: side of the images, in pixels.
        class_names: of the user's own pictures, in the order of their labels.
        scales: per released channel, what representations are multiplied by before release.
        peaks: per released channel, the largest value, after that, which a byte of a release holds.
        mechanism: what devices do besides, with its parameters; see `mechanisms.on_device`.
        unit: what released values are divided by, so that their mean square is about 1.
        epsilon: what the mechanism guarantees of one release; None where it guarantees nothing.
        weights: as `weights.load_weights` takes it.
        weights_fingerprint: of the parameters.
        latency_ms: measured on one image; None where it was not.
        latency_on: where that was measured, in words.
        characterised: where the expectations come from: "settings" of the work directory, the
            "selection" and number of "draws" of its cells, "margin_db" and "margin_ssim", and what
            was "tested" on images that decided nothing.
        measured: what class `public`, or `informed` under a mechanism, made of the sample; None
            where nobody attacked it.
        promise: what the margins rest on; None where they were given, or are the usual ones.
        sample: digests of the user's pictures that the planner saw, and of their copies; an audit
            leaves them out.
        reading: how they were decoded, and all pictures under the plan are.

    Raises:
        UserError: the parts do not fit each other.
    """

    id: Hex64
    topology: Topology
    selection: Selection
    limits: Limits
    expected: Expectation
    image_size: Count
    class_names: tuple[Text, ...]
    scales: tuple[Positive, ...]
    peaks: tuple[Positive, ...]
    mechanism: Text
    unit: Positive
    epsilon: float | None
    weights: Text
    weights_fingerprint: Hex64
    latency_ms: Positive | None
    latency_on: Text
    characterised: Mapping[str, Any]
    measured: Measured | None
    promise: Promise | None
    sample: tuple[Text, ...]
    reading: Reading

    def __post_init__(self) -> None:
        topology, candidates = self.topology, self.selection.candidates
        if self.epsilon is not None and not 0 <= self.epsilon < math.inf:
            raise UserError(f"an epsilon of {self.epsilon}")
        if not len(self.scales) == len(self.peaks) == topology.depth:
            raise UserError("scales or peaks that are not one number per channel")
        if (
            len({*candidates}) < len(candidates)
            or max(candidates, default=0) >= topology.layer.channels
        ):
            raise UserError(f"candidates that are no distinct channels of {topology.layer.name}")
        if self.selection.channels(topology.depth) != topology.channels:
            raise UserError("channels that its seed does not draw, or not in this order")
        settings = self.characterised.get("settings")
        if not isinstance(settings, Mapping) or type(settings.get("seed")) is not int:
            raise UserError("settings of a characterisation without its seed")

    @property
    def cost(self) -> dict[str, float]:
        """What limits are about, in their units; latency and epsilon where they are known."""
        known = {"latency_ms": self.latency_ms, EPSILON: self.epsilon}
        return costs_of(self.topology, self.image_size) | {
            name: value for name, value in known.items() if value is not None
        }

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the characterisation behind the expectations, as its `config.json` has them."""
        return self.characterised["settings"]

    def check_weights(self, fingerprint: str, source: str) -> None:
        """Raises UserError unless the weights of this source are those of the plan."""
        if fingerprint != self.weights_fingerprint:
            raise UserError(
                f"the weights {source} have fingerprint {fingerprint}, but the plan was made with "
                f"{self.weights_fingerprint} (of {self.weights}), and its promises hold for those "
                "alone; give them as --weights, or plan again with the others"
            )


def costs_of(topology: Topology, image_size: int) -> dict[str, float]:
    """Returns limit -> what a topology costs, in the units of `Limits`, by `local_cost`."""
    cost = local_cost(topology, image_size)
    return {
        "local_mmacs": cost.macs / 1e6,
        "storage_mib": cost.param_bytes / 2**20,
        "release_kib": cost.release_bytes / 2**10,
    }


def write_plan(path: Path, plan: Plan) -> None:
    """Writes a plan whole, readable by the user alone.

    Raises:
        ValueError: the plan is one that `read_plan` would not take.
    """
    content = json.loads(json.dumps(dataclasses.asdict(plan), allow_nan=False))
    readable = checked(content, Plan, "Expected a plan that can be read again", "plan again")
    write_document(path, readable, _VERSION, private=True)


def read_plan(path: Path) -> Plan:
    """Returns the plan of a file.

    Raises:
        UserError: the file cannot be read, is no plan, is of another version, was changed, or
            makes no sense.
    """
    try:
        return read_document(path, Plan, _VERSION, _REMEDY, what="plan")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {_REMEDY}") from None

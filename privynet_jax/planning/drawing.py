"""Draws channels for options in secret, and measures what decides: latency and privacy loss.

    drawing = Drawing(weights, sample, {"none": (store, "random")}, limits, PlanSettings())
    decision, latency_on = drawing.decide(options, margins, config)
    drawing.selection(decision.chosen)  # with the secret seed

`topology_plan` makes the plan of it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from privynet_jax.attacks.informed import INFORMED
from privynet_jax.attacks.public.public_attack import PUBLIC
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.topology import DIRECT
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.config import LOCAL_CACHE, Config
from privynet_jax.characterisation.modes import DEDICATED
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading
from privynet_jax.images.sample import Sample
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.words import planned_mechanism
from privynet_jax.planning import planner
from privynet_jax.planning.draw_meter import DrawMeter
from privynet_jax.planning.latency import Meter
from privynet_jax.planning.lengths import TRAINING, attackers_schedule
from privynet_jax.planning.options import Option
from privynet_jax.planning.plan import Limits, Measured
from privynet_jax.planning.planner import Decision
from privynet_jax.planning.promise import Episode
from privynet_jax.planning.wording import named
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.latencies import Latencies
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection.pruning import channel_scores, pruned_candidates
from privynet_jax.selection.secret_draw import Selection, select
from privynet_jax.training.session import session


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How a plan is made, besides its limits.

    Attributes:
        selection: one of `topology.METHODS`; `direct` releases the best channels that the search
            found, the others draw in secret from what is left; all need characterised cells of it.
            None is the first of `direct` (of a dedicated characterisation), `both` and `random`.
        margin_db: kept under the limit on PSNR: audits find more than was measured or expected.
            None: what episodes call for, or `planner.MARGINS` where none are of such plans.
        margin_ssim: likewise under the limit on SSIM.
        episodes: what margins rest on; None: `promise.USUAL_EPISODES`, unless a margin is given.
        attacked_images: of the sample, that class `public` is scored on, with the very channels
            that are to be released, see `draw_meter`; 0 relies on what is expected.
        draw_seed: 64 hexadecimal digits, for measurements that protect nobody's pictures; None
            draws channels in secret.
        measure_latency: measure the chosen topology's even without a limit on it.
        latencies: what a device measured, which then takes the place of measuring on this machine.
        sample_images: pictures to look at; None is the usual number, see `sample.load_sample`.
        skip_unreadable: leave out pictures that cannot be decoded.
        reading: what files leave open; kept in the plan.
        cache_dir: of weights.
        data_dir: folder of TFDS data sets; None is TFDS's default.
        training: how long attackers train, see `lengths`.
    """

    selection: str | None = None
    margin_db: float | None = None
    margin_ssim: float | None = None
    episodes: Sequence[Episode] | None = None
    attacked_images: int = 64
    draw_seed: str | None = None
    measure_latency: bool = False
    latencies: Latencies | None = None
    sample_images: int | None = None
    skip_unreadable: bool = False
    reading: Reading = AS_FILES_SAY
    cache_dir: Path = LOCAL_CACHE
    data_dir: Path | str | None = None
    training: float = TRAINING


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """Draws channels for options in secret, and measures what they give away.

    Of each mechanism, `grids` has the characterisation and its selection.
    """

    weights: PretrainedWeights
    sample: Sample
    grids: Mapping[str, tuple[ResultStore, str]]
    limits: Limits
    settings: PlanSettings
    drawn: dict[tuple[int, int, str], Selection] = dataclasses.field(default_factory=dict)

    def selection(self, option: Option) -> Selection:
        """Returns how the channels of an option were chosen: drawn once."""
        (layer, depth), (store, method) = option.shape, self.grids[option.mechanism]
        if option.place not in self.drawn:
            if method == DIRECT:
                candidates = store.load_candidates(DIRECT, layer, depth, option.backbone)
            else:
                images, labels = self.sample.images, self.sample.answers
                scores = channel_scores(self.weights, images, labels, [layer])[layer]
                candidates = pruned_candidates(method, scores, depth)
            self.drawn[option.place] = select(candidates, method, depth, self.settings.draw_seed)
        return self.drawn[option.place]

    def decide(
        self, options: list[Option], margins: Mapping[str, float], config: Mapping[str, Any]
    ) -> tuple[Decision, str]:
        """Returns what is chosen, and where latency was measured; empty where it was not."""
        limits, settings = self.limits, self.settings
        measures = [self._attacked(config)] if settings.attacked_images else []
        known = settings.latencies
        timed = settings.measure_latency or limits.latency_ms is not None or known is not None
        for option in options if known is not None else ():  # before anything takes minutes
            known.of(option.backbone, config["image_size"], *option.shape)
        meter = Meter(known) if timed else None
        if meter is not None:
            measures.insert(0, functools.partial(_timed, meter, config["image_size"]))

        def measure(option: Option) -> Option:
            for each in measures:
                if not planner.choose([option], limits, margins).chosen:
                    return option  # nothing else decides any more
                option = each(option)
            return option

        decision = planner.choose_measured(options, limits, margins, measure)
        return decision, "" if meter is None else meter.where

    def _attacked(self, config: Mapping[str, Any]) -> Callable[[Option], Option]:
        """Returns what measures an option's privacy loss."""
        settings, statistic = self.settings, self.limits.statistic
        trained = Config.of_settings(config, Path(), mode=DEDICATED).attacker
        trained = attackers_schedule(trained, settings.training)
        budget = Budget(trained.steps, batch_size=trained.batch_size)
        attacks = named_attacks([PUBLIC, INFORMED], Training(budget))
        how_many = settings.attacked_images, config["seed"]
        # Of the split alone, and under a mechanism; both ask for as many pictures.
        alone, under = (DrawMeter(self.weights, self.sample, each, *how_many) for each in attacks)
        alone.check(statistic)
        count = itertools.count(1)

        def measure(option: Option) -> Option:
            mechanism = planned_mechanism(option.mechanism)
            usual = alone if mechanism == Plain() else under
            meter = dataclasses.replace(usual, mechanism=mechanism)
            topology = option.topology(self.selection(option).channels(option.depth))
            title = f"attacking {named(option)}"
            with progress_bar(1, title, after=2) as advance, session(progress=advance):
                found = meter.measure(topology, statistic)
            name = meter.attack.name
            measured = Measured(name, **found, images=meter.images, draws=next(count))
            return dataclasses.replace(option, measured=measured, held=found)

        return measure


def _timed(meter: Meter, image_size: int, option: Option) -> Option:
    topology = option.topology(range(option.depth))
    found = meter.measure(topology, image_size, option.mechanism)
    return dataclasses.replace(option, cost={**option.cost, "latency_ms": found})

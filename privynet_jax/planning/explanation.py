"""A planner's decision in words and units, for the person who plans. No JAX here.

print(explained(decision, config))  # the whole summary, of a plan or of why there is none
raise UserError(refusal(decision))  # one line: nothing fits, and the smallest change
"""

from collections.abc import Mapping
from typing import Any

from privynet_jax.backbone.topology import DIRECT
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.planning.options import ASSUMED_SPREAD, COVERAGE, Option, spread_is_assumed
from privynet_jax.planning.plan import LIMITS, Expectation, Promise
from privynet_jax.planning.planner import Decision
from privynet_jax.planning.wording import (
    OF_IMAGES,
    WORDS,
    counted,
    flags_of,
    joined,
    kind_of_cells,
    named,
    proposed,
    with_ends,
    with_unit,
)

_SHOWN = 3


def explained(
    decision: Decision,
    config: Mapping[str, Any],
    latency_on: str = "",
    promise: Promise | None = None,
) -> str:
    """Returns the summary of a decision, several lines.

    `config` has the settings of the characterisation, `latency_on` says where latency was measured,
    empty where it was not, and the promise what the margins rest on.
    """
    sections = [
        _limits_lines(decision, promise),
        _chosen_lines(decision, latency_on) if decision.chosen else _impossible_lines(decision),
        _binding_lines(decision),
        _near_lines(decision),
        _source_lines(decision, config),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def refusal(decision: Decision) -> str:
    """Returns one line: nothing fits, which limits are to blame, and the smallest change."""
    blamed = joined([flags_of(decision, n, " together with ") for n in decision.impossible], "or")
    changes = [proposed(shortfall) for shortfall in decision.remedies]
    if decision.remedy_is_joint:
        change = f"give {joined(changes)}, the smallest change"
    else:
        change = f"the smallest change that helps is {changes[0]}"
    return f"no characterised topology keeps {blamed}; {change}"


def _limits_lines(decision: Decision, promise: Promise | None) -> list[str]:
    given = decision.limits.given()
    if not given:
        return ["Limits: none, so balanced accuracy alone decides."]
    lines = [f"Limits (privacy loss: {OF_IMAGES[decision.limits.statistic]}):"]
    for limit, value in given.items():
        margin = decision.margins.get(limit)
        kept = f", kept with a margin of {with_unit(limit, margin)}" if margin is not None else ""
        lines.append(f"  {WORDS[limit][0]:<22} at most {with_unit(limit, value)}{kept}")
    if any(limit in given for limit in decision.margins):
        lines.append(f"  ({_margin(promise)})")
    if "psnr_db" in given and not decision.options[0].held:
        held = "what attackers would reach who train ten times as long, extrapolated, must keep it"
        if not decision.options[0].expected.psnr_db_limit:
            held = "what ten times the training would reach is not known, so only measured PSNR is"
            held += " held against it"
        lines.append(f"  ({held})")
    return lines


def _margin(promise: Promise | None) -> str:
    """What margins are worth."""
    if promise is None:
        return (
            "the margin is for attackers with more training, or more pictures of your kind; that "
            "it is enough was not checked: --episodes takes what experiments.check_planning finds"
        )
    return (
        f"{promise.kept} of {promise.episodes} sources of pictures needed no larger margin, which "
        f"proves at least {100 * promise.proven:.0f} % with 95 % confidence, against class "
        "public, for further sources drawn as these were, independently"
    )


def _chosen_lines(decision: Decision, latency_on: str) -> list[str]:
    option, statistic = decision.chosen, OF_IMAGES[decision.limits.statistic]
    expected, tested = option.expected, option.tested
    whose = f"a new draw of channels by the selection {option.selection}"
    if option.selection == DIRECT:
        whose = "a new training with the channels that the search found"
    costs = [f"{WORDS[n][0]} {with_unit(n, option.cost[n])}" for n in LIMITS if n in option.cost]
    held = "the upper end of the interval"
    if option.measured:
        held = f"what the attacker {option.measured.attacker} makes of these very channels"
    lines = [
        f"Chosen: {named(option)}, the best balanced accuracy of all that keep the limits; of "
        f"privacy loss {held} must keep them, with the margin added.",
        *_measured_lines(option, statistic),
        f"  expected of {whose}, with {100 * COVERAGE:.0f} % intervals, from "
        f"{counted(option.draws, kind_of_cells(option))} on validation images:",
        f"    accuracy  {with_ends(expected.accuracy, 100, 1)} %; that of always answering the "
        f"commonest class is {100 * expected.commonest_class_share:.1f} %",
        f"    balanced  {with_ends(expected.balanced_accuracy, 100, 1)} %, the mean over classes",
        f"    PSNR      {with_ends(expected.psnr_db, 1, 2)} dB, {statistic}",
        *_longer(expected),
        f"    SSIM      {with_ends(expected.ssim, 1, 3)}, {statistic}",
        f"  on test images, which decided nothing: accuracy {100 * tested['accuracy']:.1f} %, "
        f"balanced {100 * tested['balanced_accuracy']:.1f} %, PSNR {tested['psnr_db']:.2f} dB, "
        f"SSIM {tested['ssim']:.3f}",
        f"  costs: {', '.join(costs)}",
    ]
    return [*lines, f"  latency is of one image on {latency_on}"] if latency_on else lines


def _measured_lines(option: Option, statistic: str) -> list[str]:
    if not (found := option.measured):
        return []
    drawn = "the first" if found.draws == 1 else f"number {found.draws}"
    needs = "no secret, but the rest of the sample"
    if option.mechanism != NONE:
        needs = "the channels and the rest of the sample, but not what chance added"
    return [
        f"  measured on {counted(found.images, 'picture')} of the sample, of the very channels, "
        f"{drawn} of the subsets that were drawn and attacked:",
        f"    PSNR {found.psnr_db:.2f} dB, SSIM {found.ssim:.3f}, {statistic}, by the attacker "
        f"{found.attacker}, who needs {needs}",
    ]


def _longer(expected: Expectation) -> list[str]:
    if not (further := expected.psnr_db_limit):
        return []
    return [f"      after ten times the training {with_ends(further, 1, 2)} dB, extrapolated"]


def _impossible_lines(decision: Decision) -> list[str]:
    lines = ["Nothing that was characterised keeps the limits."]
    for names in decision.impossible:
        kept = "it alone, whatever the other limits" if len(names) == 1 else "them together"
        lines.append(f"  {flags_of(decision, names, ' and ')}: no topology keeps {kept}")
    if decision.remedy_is_joint:
        change = joined([proposed(shortfall) for shortfall in decision.remedies])
        return [*lines, f"No change of one limit helps. The smallest change: {change}."]
    lines.append("Any one of these changes is enough, the smallest first:")
    proposals = [f"  {proposed(s)} ({s.notches:.1f} notches more)" for s in decision.remedies]
    return [*lines, *proposals]


def _binding_lines(decision: Decision) -> list[str]:
    given = decision.limits.given()
    if not given:
        return []
    lines = ["One notch more of a limit:", *(_relaxation(decision, limit) for limit in given)]
    if not decision.chosen:
        return lines
    binding = decision.binding
    if not binding:
        return ["Binding: no limit by itself; taking any one of them away buys nothing.", *lines]
    names = joined([WORDS[name][0] for name in binding])
    those = "Without it" if len(binding) == 1 else "Without any one of these"
    return [f"Binding: {names}. {those}, a better one would be possible.", *lines]


def _relaxation(decision: Decision, limit: str) -> str:
    relaxed = decision.relaxed(limit)
    where = f"  {flags_of(relaxed, [limit])}"
    if relaxed.chosen is None:
        return f"{where}: still nothing fits{_further(decision, limit)}"
    if decision.chosen and relaxed.merit <= decision.merit:
        return f"{where}: buys nothing{_further(decision, limit)}"
    return f"{where}: {_bought(decision, relaxed)}"


def _further(decision: Decision, limit: str) -> str:
    """Which value of a limit would buy something, where a notch more does not."""
    found = decision.next_value(limit)
    if found is None:
        return ", and no other value of it helps"
    return f"; the next value that helps: {flags_of(found, [limit])}, {_bought(decision, found)}"


def _bought(decision: Decision, relaxed: Decision) -> str:
    gain = relaxed.merit - (decision.merit if decision.chosen else 0)
    more = "more points of balanced accuracy" if decision.chosen else "% balanced accuracy"
    unknown = _unmeasured(decision, relaxed.chosen)
    return f"{100 * gain:.1f} {more}, with {named(relaxed.chosen)}{unknown}"


def _unmeasured(decision: Decision, option: Option) -> str:
    unknown = []
    if decision.limits.latency_ms is not None and "latency_ms" not in option.cost:
        unknown.append("latency")
    if option.held and not option.measured:
        unknown.append("privacy loss")
    return f" (its {joined(unknown)} was not measured)" if unknown else ""


def _near_lines(decision: Decision) -> list[str]:
    if not (misses := decision.near_misses):
        return []
    lines = ["Near misses, which are better and fail by no more than a notch:"]
    for option in misses[:_SHOWN]:
        excesses = [(s.limit, s.needed - s.value) for s in decision.shortfalls(option)]
        by = joined([f"{WORDS[limit][0]} by {with_unit(limit, x)}" for limit, x in excesses])
        merit, unknown = f"{100 * option.merit:.1f} % balanced", _unmeasured(decision, option)
        lines.append(f"  {named(option)}: {merit}, exceeds {by}{unknown}")
    if len(misses) > _SHOWN:
        lines.append(f"  and {len(misses) - _SHOWN} more")
    return lines


def _source_lines(decision: Decision, config: Mapping[str, Any]) -> list[str]:
    mode = config["mode"]
    steps = ", ".join(
        f"{config[network]['steps']} {title} steps"
        for network, title in (("attacker", "attacker"), ("cloud", "cloud NN"))
    )
    lines = [
        "Expected privacy loss is what the attacks of a characterisation reached, on "
        f"{config['dataset']}, images of {config['image_size']} pixels, mode {mode}, "
        f"{'' if mode == 'linear' else f'{steps}, '}seed {config['seed']}.",
        "It bounds no other attacker: somebody with more training, more pictures or more knowledge "
        "may rebuild more. Accuracy is that of the characterised task, not of yours.",
    ]
    chosen = decision.chosen
    if chosen and chosen.expected.accuracy.value <= chosen.expected.commonest_class_share:
        lines.append(
            "WARNING: always answering the commonest class would be right as often. What was "
            "learnt shows in the balanced accuracy alone, which is 1 / classes where nothing was, "
            "and a half where pictures may have several labels."
        )
    if mode != "dedicated":
        lines.append(
            f"WARNING: the mode {mode} estimates. It ranks topologies, and its attackers are "
            "weaker than dedicated ones, by several dB: real privacy loss is higher than these "
            "numbers. Characterise with --mode=dedicated before you rely on them."
        )
    if spread_is_assumed(decision.options):
        what = kind_of_cells(decision.options[0])
        lines.append(
            f"WARNING: there is one {what} per depth, so how {what}s differ is not known. "
            f"Intervals assume standard deviations of {ASSUMED_SPREAD['psnr_db']:.1f} dB, SSIM "
            f"{ASSUMED_SPREAD['ssim']:.2f} and {100 * ASSUMED_SPREAD['accuracy']:.0f} points of "
            "accuracy. Characterise with --draws=2 or more, in the mode dedicated."
        )
    return lines

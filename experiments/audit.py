"""Does a plan keep its promises? Fresh attackers, trained longer, on pictures it was not made from.

    python -m experiments.audit --plan=plan.json --data=folder:pictures --out=audit.json

Trains cloud NNs and attackers for the plan's own topology, with another seed, for --training times
the characterisation's steps or as long as attackers need, and attacks test images. Pictures that
the planner had seen as its sample are left out, with their copies. The attackers are the
characterisation's, and the one that the plan was measured by before it was written;
--attackers=strong,public,"white box" names others, such as somebody who has got hold of the plan.
--released=older.json,... says under which plans the same pictures were released before, so that
attackers hold those channels too.
Exit status 0: every limit was kept; 2: one was broken; 3: inconclusive, none was broken, but more
pictures or longer training might; 1: something was wrong with what was given.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.reporting.promises import audited
from privynet_jax import AuditSettings, Plan, UserError, audit_plan, read_plan, session
from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.auditing.findings import BROKEN, INCONCLUSIVE, KEPT, Attacked, Audit
from privynet_jax.platform.files import written_new
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.text_tables import aligned

cli.key_flags("plan out weights cache_dir data_dir")
cli.key_flags("skip_unreadable sixteen_bit_max dicom_window max_images attackers attacked_images")
cli.key_flags("training")
cli.key_flags("latency")
_DATA = flags.DEFINE_string("data", None, "Labelled pictures: folder:PATH or TFDS name.")
_SEED = flags.DEFINE_integer("audit_seed", None, "Default: the grid's plus 1.", 0, cli.MOST_SEED)
_RELEASED = flags.DEFINE_list(
    "released", [], "Plans under which the same pictures were released before."
)
_REPEATS = flags.DEFINE_integer("repeats", 1, "Trainings of each network.", 1)
_STATUS = {KEPT: 0, BROKEN: 2, INCONCLUSIVE: 3}
_TRANSFERS_WITHIN = 1.5
_NO_STRONGER = (
    "No other attackers than the characterisation's were tried; "
    "--attackers=strong,public tries one who needs nothing secret; strong,informed, for plans with "
    "a mechanism, one who knows the channels."
)
_EARLIER = (
    "Attackers hold {0.channels_held} channels of every picture, of this release and of "
    "{0.earlier_releases} before it."
)
_UNDECIDED = "INCONCLUSIVE: no limit was broken here, which does not show that they are kept:"
_MORE = "Audit on more pictures, or with a larger --training or --attacked_images."
_WHAT_NOW = (
    "If nothing was released under this plan, plan again with a larger --margin_db. What was "
    "released cannot be called back, and the same pictures released under another plan would show "
    "its channels as well: use that for other pictures alone, or audit it with --released, which "
    "says what both together give away."
)


def main() -> None:
    data = cli.needed(_DATA, "give pictures to attack: folder:PATH or a TFDS name")
    out = cli.new_file(cli.OUT) if cli.OUT.value else None
    plan = read_plan(cli.needed_file(cli.PLAN))
    reading = cli.reading().agreed(plan.reading)
    settings = AuditSettings(
        cache_dir=cli.folder("cache_dir", cli.CACHE_DIR.value),
        seed=cli.next_seed(plan.settings["seed"]) if _SEED.value is None else _SEED.value,
        repeats=_REPEATS.value,
        attackers=tuple(cli.ATTACKERS.value),
        training=cli.TRAINING.value,
        attacked_images=cli.ATTACKED_IMAGES.value,
        released=tuple(map(_released, _RELEASED.value)),
        latencies=cli.latencies(),
    )
    cli.use_cpu_cores()
    weights = cli.weights_of(plan)
    parts = cli.load_data(data, image_size=plan.image_size, seed=settings.seed, reading=reading)
    # Later than refusals, which are to be one line.
    bar = progress_bar(settings.repeats, "attacking anew", after=2)
    with bar as advance, session(progress=advance):
        audit = audit_plan(plan, parts, weights, settings)
    # First what took all the time, then what may fail.
    print(report(audit, plan.limits.statistic))
    if out:
        print(f"The audit is in {written_new(out, audit.write)}.")
    if status := _STATUS[audit.verdict]:
        sys.exit(status)


def _released(path: str) -> Plan:
    if not Path(path).expanduser().is_file():
        raise UserError(f"--released={path} is no file; give the plan.json of each earlier release")
    return read_plan(Path(path).expanduser())


def report(audit: Audit, statistic: str) -> str:
    """Returns the findings for people to read."""
    images = ", ".join(f"{count} {name}" for name, count in audit.images.items())
    findings = [audited({**dataclasses.asdict(f), "verdict": f.verdict}) for f in audit.findings]
    lines = [
        f"Audit on {audit.data}: {images}; {audit.left_out} pictures left out that the planner "
        "had seen.",
        f"Fresh attackers, seeds: {audit.repeats}, steps of each: {audit.attacker_steps}; privacy "
        f"loss is the {statistic} over test images, of the worst attacker and seed, on as many "
        "images as its line says.",
        *([_EARLIER.format(audit)] if audit.earlier_releases else ()),
        _attackers(audit.attacks),
        *(() if audit.stronger else (_NO_STRONGER,)),
        "",
        aligned(findings) if findings else "",
        "",
        _transfer(audit),
        _verdict(audit, findings),
    ]
    return "\n".join(lines)


def _verdict(audit: Audit, findings: Sequence[Mapping[str, str]]) -> str:
    if audit.verdict == BROKEN:
        told = ((row, f" ({row['strongest attacker']})".removesuffix(" ()")) for row in findings)
        broken = [row["audited"] + whose for row, whose in told if row["verdict"] == BROKEN]
        return f"BROKEN: at least one limit was not kept: {'; '.join(broken)}. {_WHAT_NOW}"
    if audit.verdict == INCONCLUSIVE:
        doubts = dict.fromkeys(doubt for finding in audit.findings for doubt in finding.doubts)
        return "\n  ".join([_UNDECIDED, *doubts]) + f"\n{_MORE}"
    return "Every limit was kept. These are measured attacks: they bound no other attacker."


def _attackers(attacks: Sequence[Attacked]) -> str:
    """A line per attacker, with the worst of its repeats."""
    rows = []
    for name in dict.fromkeys(attack.attacker for attack in attacks):
        mine = [attack for attack in attacks if attack.attacker == name]
        leak = ", if the plan leaks" if mine[0].knowledge == EVERYTHING else ""
        row = {"attacker": name, "knows": f"{mine[0].knowledge}{leak}"}
        for kind in ("mean", "p95"):
            row[f"{kind} dB"] = f"{max(getattr(a.psnr_db, kind) for a in mine):.1f}"
        converged = all(attack.converged for attack in mine)
        rows.append({**row, "images": mine[0].images, "converged": converged})
    return aligned(rows) if rows else ""


def _transfer(audit: Audit) -> str:
    difference_db = audit.difference_db
    if audit.earlier_releases:
        return "Nobody expected what attackers make of several releases: nothing is compared."
    if difference_db is None:
        return (
            "Not all of the characterisation's attackers were tried, so nothing is said of how far "
            "its privacy loss carried over."
        )
    carried = "carried over" if abs(difference_db) <= _TRANSFERS_WITHIN else "did not carry over"
    return (
        f"Privacy loss {carried} from the characterisation: {difference_db:+.2f} dB, where up to "
        f"{_TRANSFERS_WITHIN} dB more or less count as carried over."
    )


if __name__ == "__main__":
    cli.run(main)

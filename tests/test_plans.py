"""Plans: what the file keeps, whom it shows it to, and what is refused; the secret draw."""

import dataclasses
import hashlib
import itertools
import json
import math
import secrets
from collections import Counter

import pytest
from scipy.stats import chisquare

from privynet_jax.cost import local_cost
from privynet_jax.errors import UserError
from privynet_jax.plans import (
    LIMITS,
    Expectation,
    Interval,
    Limits,
    Plan,
    Selection,
    costs_of,
    draw_secretly,
    entropy_bits,
    read_plan,
    write_plan,
)
from privynet_jax.topology import Topology

SEED = "0123456789abcdef" * 4


@pytest.fixture
def plan():
    candidates = tuple(range(0, 128, 3))
    selection = Selection("both", candidates, SEED, entropy_bits(len(candidates), 4))
    return Plan(
        topology=Topology(4, selection.channels(4)),
        selection=selection,
        limits=Limits(psnr_db=20, local_mmacs=300.5, statistic="p95"),
        expected=Expectation(
            Interval(0.6, 0.55, 0.65), Interval(18.0, 17.0, 19.5), Interval(0.4, 0.3, 0.5)
        ),
        image_size=32,
        class_names=("dog", "κάτι"),
        scales=(0.1, 1 / 3, 2.0, 1e-7),
        peaks=(16.0, 17.5, 300.0, 16.0),
        weights="embedded",
        weights_fingerprint="ab" * 32,
        latency_ms=12.5,
        latency_on="2 cores",
        characterised={"data": "photo_patches", "seed": 0, "fractions": [0.5, {"a": None}]},
        sample=("00ff", "11ee"),
    )


@pytest.fixture
def path(tmp_path, plan):
    path = tmp_path / "plan.json"
    write_plan(path, plan)
    return path


def edited(path, change, *, new_checksum):
    """Writes what `change` makes of the file's content, with the old checksum or a right one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    if new_checksum:
        del content["sha256"]
        text = json.dumps(content, sort_keys=True)
        content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content), encoding="utf-8")


def places(value, way=()):
    """The ways to all numbers, texts and empty places of nested JSON."""
    if isinstance(value, dict):
        return [place for key in value for place in places(value[key], (*way, key))]
    if isinstance(value, list) and value:
        return [place for i in range(len(value)) for place in places(value[i], (*way, i))]
    return [way]


def put(content, way, value):
    for key in way[:-1]:
        content = content[key]
    content[way[-1]] = value


def test_a_plan_comes_back_as_it_was(path, plan):
    assert read_plan(path) == plan
    unmeasured = dataclasses.replace(plan, latency_ms=None, latency_on="", sample=())
    write_plan(path, unmeasured)
    assert read_plan(path) == unmeasured


def test_only_the_user_may_read_it(path, plan):
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    write_plan(path, plan)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.json"]


def test_a_file_written_differently_but_with_the_same_content_is_read(path, plan):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7), encoding="utf-8")
    assert read_plan(path) == plan


def test_any_change_of_any_field_is_refused(path):
    original = path.read_text(encoding="utf-8")
    content = json.loads(original)
    ways = places(content)
    assert {way[0] for way in ways} == {
        *(field.name for field in dataclasses.fields(Plan)),
        *("version", "sha256"),
    }
    for way in ways:
        for value in ("edited", 0.125, None, [], {}):
            path.write_text(original, encoding="utf-8")
            edited(path, lambda content, w=way, v=value: put(content, w, v), new_checksum=False)
            if json.loads(path.read_text(encoding="utf-8")) == content:
                continue  # it was None before
            with pytest.raises(UserError, match="was changed after it was planned"):
                read_plan(path)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Plan)])
def test_fields_may_not_be_missing(path, name):
    original = path.read_text(encoding="utf-8")
    edited(path, lambda content: content.pop(name), new_checksum=False)
    with pytest.raises(UserError, match="was changed"):
        read_plan(path)
    path.write_text(original, encoding="utf-8")
    edited(path, lambda content: content.pop(name), new_checksum=True)
    with pytest.raises(UserError, match="fields that make no plan"):
        read_plan(path)


def test_a_wrong_type_with_a_right_checksum_is_refused(path):
    original = path.read_text(encoding="utf-8")
    content = json.loads(original)
    free = {"sha256", "version", "characterised"}  # the settings may be anything
    ways = [way for way in places(content) if way[0] not in free]
    ways += [(name,) for name in content if name not in free | {"sample", "class_names"}]
    ways += [("characterised",), ("selection", "candidates"), ("topology", "channels")]
    for way in ways:
        for value in ([[1]], {"a": 1}, True, math.nan, math.inf):
            path.write_text(original, encoding="utf-8")
            edited(path, lambda content, w=way, v=value: put(content, w, v), new_checksum=True)
            if way == ("characterised",) and value == {"a": 1}:
                continue
            with pytest.raises(UserError, match=r"plan\.json has .*; plan again"):
                read_plan(path)


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (("expected", "psnr_db", "low"), 30.0, "intervals that are none"),
        (("expected", "ssim", "expected"), "0.4", "intervals"),
        (("scales",), [1.0], "scales or peaks"),
        (("scales", 1), 0.0, "scales or peaks"),
        (("peaks", 1), -3, "scales or peaks"),
        (("image_size",), 0, "an image size"),
        (("image_size",), 32.0, "an image size"),
        (("latency_ms",), -1, "a latency"),
        (("class_names",), [1, 2], "class names or digests"),
        (("weights",), None, "texts that are none"),
        (("selection", "seed"), "", "a seed that is not 64 hexadecimal digits"),
        (("selection", "seed"), "é" * 64, "a seed"),
        (("selection", "seed"), SEED[:-1] + "0", "channels that its seed does not draw"),
        (("selection", "candidates"), [0, 3, 6], "channels that its seed does not draw"),
        (("selection", "candidates"), [5] * 9, "candidates"),
        (("selection", "candidates"), [1, 2, 3, 128], "candidates"),
        (("topology", "channels"), [0, 1, 2, 3], "channels that its seed does not draw"),
        (("topology", "channels"), [0, 1, 2, 2], "channels repeat 2"),
        (("topology", "num_layers"), 14, "num_layers is 14"),
        (("limits", "psnr_db"), -3, "the limit psnr_db is -3"),
        (("limits", "statistic"), "p90", "statistic is 'p90'"),
        (("limits", "price"), 3, "fields that make no plan"),
        (("surprise",), 3, "fields that make no plan"),
    ],
)
def test_nonsense_with_a_right_checksum_is_refused(path, way, value, message):
    edited(path, lambda content: put(content, way, value), new_checksum=True)
    with pytest.raises(UserError, match=message):
        read_plan(path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_versions_are_refused(path, version):
    edited(path, lambda content: put(content, ("version",), version), new_checksum=True)
    with pytest.raises(UserError, match="another version of privynet_jax"):
        read_plan(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"3", b'"sha256"', b"null", b"{}", b"[" * 100_000],
    ids=lambda content: repr(content[:8]),
)
def test_other_files_are_no_plans(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    for wrong in (path, tmp_path, tmp_path / "missing.json"):
        with pytest.raises(UserError, match=r"is no plan; give the plan\.json"):
            read_plan(wrong)


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": (1.0,)},
        {"peaks": (1.0, 2.0, 3.0, math.nan)},
        {"characterised": {"loss": math.inf}},
        {"characterised": {"path": object()}},
        {"latency_ms": math.inf},
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, plan, changes):
    with pytest.raises(ValueError, match="Expected a plan that can be read again"):
        write_plan(tmp_path / "plan.json", dataclasses.replace(plan, **changes))
    assert not list(tmp_path.iterdir())


def test_limits():
    names = ("psnr_db", "ssim", "local_mmacs", "storage_mib", "release_kib", "latency_ms")
    assert names == LIMITS
    assert Limits().given() == {}
    assert Limits(ssim=0.5, latency_ms=3).given() == {"ssim": 0.5, "latency_ms": 3}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, -math.inf, "20", True, [20]])
def test_limits_are_positive_numbers(name, value):
    with pytest.raises(UserError, match=f"the limit {name} is .*; allowed are positive numbers"):
        Limits(**{name: value})


@pytest.mark.parametrize("statistic", ["p90", "", None, ["mean"]])
def test_statistics_are_known(statistic):
    with pytest.raises(UserError, match="allowed are mean, median, p95, p99, max"):
        Limits(statistic=statistic)


def test_costs_are_in_the_units_of_the_limits(plan):
    cost = local_cost(plan.topology, 32)
    expected = {
        "local_mmacs": cost.macs / 10**6,
        "storage_mib": cost.param_bytes / 1024**2,
        "release_kib": 16 * 16 * 4 * 4 / 1024,
    }
    assert costs_of(plan.topology, 32) == expected
    assert plan.cost == expected | {"latency_ms": 12.5}
    assert dataclasses.replace(plan, latency_ms=None).cost == expected
    assert set(plan.cost) <= set(LIMITS)


def test_entropy_counts_subsets():
    assert entropy_bits(6, 2) == pytest.approx(math.log2(15))
    assert (entropy_bits(5, 5), entropy_bits(2, 1)) == (0, 1)
    # No more than the seed's own.
    assert entropy_bits(512, 256) == 256


def test_a_draw_is_decided_by_seed_and_candidates_alone():
    candidates = tuple(range(10, 60))
    drawn = draw_secretly(candidates, 7, SEED)
    assert drawn == draw_secretly(candidates[::-1], 7, SEED) == tuple(sorted(set(drawn)))
    assert len(drawn) == 7
    assert set(drawn) <= set(candidates)
    assert Selection("both", candidates, SEED, 0.0).channels(7) == drawn
    # More channels of the same seed contain the fewer.
    assert set(drawn) < set(draw_secretly(candidates, 8, SEED))
    assert draw_secretly(candidates, 50, SEED) == candidates


def test_the_draw_stays_the_same_from_version_to_version():
    """Worked out from the definition: channels in the order of 16 bytes each of SHAKE-256."""
    stream = hashlib.shake_256(bytes.fromhex(SEED)).hexdigest(16 * 5)
    keys = {stream[32 * i : 32 * i + 32]: channel for i, channel in enumerate((2, 3, 5, 7, 11))}
    expected = tuple(sorted(keys[key] for key in sorted(keys)[:3]))
    assert draw_secretly((11, 7, 5, 3, 2), 3, SEED) == expected


@pytest.mark.parametrize("position", range(64))
def test_every_digit_of_the_seed_counts(position):
    changed = SEED[:position] + ("0" if SEED[position] != "0" else "1") + SEED[position + 1 :]
    candidates = tuple(range(512))
    assert draw_secretly(candidates, 64, changed) != draw_secretly(candidates, 64, SEED)


def test_every_subset_is_equally_likely():
    def counts(seeds):
        drawn = Counter(draw_secretly((1, 4, 6, 8, 9), 2, seed) for seed in seeds)
        return [drawn[pair] for pair in itertools.combinations((1, 4, 6, 8, 9), 2)]

    # Fixed seeds that differ in few bits: the outcome cannot change from run to run.
    assert chisquare(counts(f"{number:064x}" for number in range(5000))).pvalue > 0.01
    # Fresh ones: one run in a million fails.
    assert chisquare(counts(secrets.token_hex(32) for _ in range(5000))).pvalue > 1e-6

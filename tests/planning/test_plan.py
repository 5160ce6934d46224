"""Plans: limits that make sense, costs in their units, and a file that is kept and checked."""

import dataclasses
import hashlib
import json
import math

import pytest
from support import handmade_plan
from support.handmade_plan import SEED

from privynet_jax.backbone.topology import local_cost
from privynet_jax.errors import UserError
from privynet_jax.planning.plan import LIMITS, Limits, Plan, costs_of, read_plan, write_plan


@pytest.fixture
def plan():
    return handmade_plan.plan()


def test_limits():
    names = ("psnr_db", "ssim", "local_mmacs", "storage_mib", "release_kib", "latency_ms")
    names += ("epsilon",)
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
    with pytest.raises(UserError, match="allowed are mean, median, p95, p99;"):
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
    noisy = dataclasses.replace(plan, mechanism="laplace:clip=0.5,scale=9", epsilon=7.5)
    assert noisy.cost == plan.cost | {"epsilon": 7.5}
    assert set(plan.cost) <= set(LIMITS)


def test_settings_are_those_of_the_characterisation(plan):
    assert plan.settings["seed"] == 0
    for characterised in ({}, {"settings": None}, {"settings": {}}, {"settings": {"seed": "0"}}):
        with pytest.raises(UserError, match="settings of a characterisation without its seed"):
            dataclasses.replace(plan, characterised=characterised)


# The file.


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


def test_a_change_is_noticed(path):
    """`test_documents.py` has what is refused of any file like this one."""
    edited(path, lambda content: put(content, ("limits", "psnr_db"), 25.0), new_checksum=False)
    with pytest.raises(UserError, match="was changed after it was written"):
        read_plan(path)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Plan)])
def test_fields_may_not_be_missing(path, name):
    edited(path, lambda content: content.pop(name), new_checksum=True)
    with pytest.raises(UserError, match=f"is no plan: .* missing required field `{name}`"):
        read_plan(path)


def test_a_wrong_type_with_a_right_checksum_is_refused(path):
    original = path.read_text(encoding="utf-8")
    content = json.loads(original)
    free = {"sha256", "characterised"}  # most settings may be anything
    ways = [way for way in places(content) if way[0] not in free]
    # Limits may all be missing, as in a plan that has none.
    ways += [(name,) for name in content if name not in free | {"limits"}]
    ways += [("characterised",), ("characterised", "settings")]
    ways += [("selection", "candidates"), ("topology", "channels")]
    for way in ways:
        for value in ([[1]], {"a": 1}, True, math.nan, math.inf):
            path.write_text(original, encoding="utf-8")
            edited(path, lambda content, w=way, v=value: put(content, w, v), new_checksum=True)
            with pytest.raises(UserError, match=r"plan\.json is (no plan|of version)"):
                read_plan(path)


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (("expected", "psnr_db", "low"), 30.0, r"an interval from 30.0 to 19.5 - at `\$.expected"),
        (("expected", "psnr_db_limit", "low"), 30.0, r"an interval from 30.0 to 21.5 - at"),
        (("expected", "ssim", "value"), "0.4", r"Expected `float`, got `str`"),
        (("scales",), [1.0], "scales or peaks"),
        (("scales", 1), 0.0, "> 0.0 - at .*scales"),
        (("peaks", 1), -3, "> 0.0 - at .*peaks"),
        (("image_size",), 0, ">= 1 - at .*image_size"),
        (("image_size",), 10**9, "<= 1048575 - at .*image_size"),
        (("latency_ms",), -1, "> 0.0 - at .*latency_ms"),
        (("class_names",), [1, 2], "Expected `str`, got `int`"),
        (("weights",), None, "Expected `str`, got `null`"),
        (("weights",), "w" * 5000, "length <= 4096"),
        (("selection", "seed"), "", "at .*selection.seed"),
        (("selection", "seed"), "é" * 64, "at .*selection.seed"),
        (("id",), "1d" * 31, "at .*id"),
        (("selection", "seed"), SEED[:-1] + "0", "channels that its seed does not draw"),
        (("selection", "candidates"), [0, 3, 6], "channels that its seed does not draw"),
        (("selection", "candidates"), [], "channels that its seed does not draw"),
        (("selection", "candidates"), [5] * 9, "no distinct channels of conv2_2"),
        (("selection", "candidates"), [1, 2, 3, 128], "no distinct channels of conv2_2"),
        (("topology", "channels"), [0, 1, 2, 3], "channels that its seed does not draw"),
        (("topology", "channels"), [0, 1, 2, 2], "channels repeat 2"),
        (("topology", "num_layers"), 14, "num_layers is 14"),
        (("limits", "psnr_db"), -3, "the limit psnr_db is -3"),
        (("limits", "statistic"), "p90", "statistic is 'p90'"),
        (("surprise",), 3, "surprise is unknown"),
        (("limits", "price"), 3, "price is unknown"),
    ],
)
def test_nonsense_with_a_right_checksum_is_refused(path, way, value, message):
    edited(path, lambda content: put(content, way, value), new_checksum=True)
    with pytest.raises(UserError, match=message):
        read_plan(path)


def test_plans_from_before_the_secret_order_are_refused(path, plan):
    ascending = sorted(plan.topology.channels)
    assert ascending != list(plan.topology.channels)
    edited(
        path, lambda content: put(content, ("topology", "channels"), ascending), new_checksum=True
    )
    with pytest.raises(UserError, match=r"does not draw, or not in this order; .*plan again$"):
        read_plan(path)


def test_other_versions_and_other_files_are_refused(path):
    edited(path, lambda content: put(content, ("version",), 1), new_checksum=True)
    with pytest.raises(UserError, match=r"is of version 1 of the format.*; read it with"):
        read_plan(path)
    path.write_bytes(b"{")
    with pytest.raises(UserError, match=r"is no plan; give the plan\.json"):
        read_plan(path)


def test_what_cannot_be_read_is_told(tmp_path):
    for wrong, why in ((tmp_path, "Is a directory"), (tmp_path / "missing.json", "No such file")):
        with pytest.raises(UserError, match=rf"cannot be read: {why}.*; give the plan\.json"):
            read_plan(wrong)


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": (1.0,)},
        {"peaks": (1.0, 2.0, 3.0, math.nan)},
        {"characterised": {"settings": {"seed": 0, "loss": math.inf}}},
        {"characterised": {"settings": {"seed": 0, "path": object()}}},
        {"characterised": {"settings": {"seed": "0"}}},
        {"characterised": {"settings": {}}},
        {"characterised": {}},
        {"latency_ms": math.inf},
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, plan, changes):
    with pytest.raises((ValueError, TypeError)):
        write_plan(tmp_path / "plan.json", dataclasses.replace(plan, **changes))
    assert not list(tmp_path.iterdir())

"""Which devices and plans are chosen, and how arrays get to the devices and back."""

import platform as machine
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform import devices as execution
from privynet_jax.platform.devices import (
    Execution,
    Spread,
    data_parallel,
    execution_for,
    map_members,
    nbytes,
    of_one_device,
)


def devices(platform, count, memory_gib=16):
    return [
        types.SimpleNamespace(
            platform=platform,
            device_kind=platform,
            id=index,
            memory_stats=lambda: {"bytes_limit": memory_gib * 2**30} if memory_gib else None,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("platform", "count", "members", "given", "expected"),
    [
        # One member and one step on each CPU device, and no more devices than members.
        ("cpu", 2, 4, {}, (2, 1, 1)),
        ("cpu", 2, 4, {"cells_per_device": 3, "steps_per_dispatch": 5}, (2, 3, 5)),
        # Elsewhere members share the devices in equal groups, at most 8 on each: 7, 7, 6.
        ("gpu", 4, 6, {}, (4, 2, 10)),
        ("gpu", 1, 20, {}, (1, 7, 10)),
        ("tpu", 8, 64, {"cells_per_device": 1}, (8, 1, 10)),
        ("gpu", 1, 20, {"steps_per_dispatch": 1}, (1, 7, 1)),
    ],
)
def test_the_backend_picks_and_arguments_override(
    monkeypatch, platform, count, members, given, expected
):
    present = devices(platform, count)
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    found = execution_for(members, 16, Spread(**given))
    assert found.devices == tuple(present[: expected[0]])
    assert (found.cells_per_device, found.steps_per_dispatch) == expected[1:]
    assert found.group_size == expected[0] * expected[1]
    assert not found.shares_examples


@pytest.mark.parametrize(("batch_size", "used"), [(16, 4), (6, 3), (7, 1)])
def test_a_single_member_s_examples_are_dealt_out(monkeypatch, batch_size, used):
    present = devices("gpu", 4)
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    found = execution_for(1, batch_size)
    assert (len(found.devices), found.group_size, found.shares_examples) == (used, 1, used > 1)


@pytest.mark.parametrize(
    ("platform", "given", "expected"),
    [
        ("gpu", 0, (8 * 2**30, int(0.35 * 2**34))),
        ("gpu", 2, (2**30, int(0.35 * 2**31))),
        # The host's memory is not divided up, unless somebody asks for it.
        ("cpu", 0, (0, None)),
    ],
)
def test_device_memory_is_shared_out(monkeypatch, platform, given, expected):
    monkeypatch.setattr(jax, "local_devices", lambda: devices(platform, 1))
    found = execution_for(1, 8, Spread(device_memory_gib=given))
    assert (found.resident_bytes, found.step_bytes) == expected


def test_a_device_that_hides_its_memory_is_named(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: devices("metal", 1, memory_gib=0))
    with pytest.raises(UserError, match=r"metal does not say .* --device_memory_gib"):
        execution_for(1, 8)
    assert execution_for(1, 8, Spread(device_memory_gib=2)).resident_bytes == 2**30


def test_less_memory_costs_steps_first():
    execution = Execution(tuple(jax.local_devices()), cells_per_device=3, steps_per_dispatch=4)
    found = []
    while execution is not None:
        found.append((execution.steps_per_dispatch, execution.cells_per_device))
        execution = execution.reduced()
    assert found == [(4, 3), (2, 3), (1, 3), (1, 2), (1, 1)]


def plan(num_devices, cells_per_device):
    return Execution(tuple(jax.local_devices()[:num_devices]), cells_per_device, 1)


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
def test_all_rows_are_loaded_on_every_device(monkeypatch, chunk):
    monkeypatch.setattr(execution, "_CHUNK_BYTES", chunk)
    stored = np.random.default_rng(0).normal(size=(11, 3, 2)).astype(np.float16)
    loaded = plan(2, 1).load(stored)
    assert loaded.shape == (2, 11, 3, 2)
    assert len(loaded.sharding.device_set) == 2
    for copy in np.asarray(loaded):
        np.testing.assert_array_equal(copy, stored)


def test_stacking_fills_up_with_copies_and_unstacking_drops_them():
    cells = [{"a": np.full((2,), cell), "b": np.float32(cell)} for cell in range(3)]
    stacked = plan(2, 2).stack(cells)
    assert stacked["a"].shape == (2, 2, 2)
    assert stacked["b"].tolist() == [[0, 1], [2, 2]]
    assert [one["b"] for one in plan(2, 2).unstack(stacked, 3)] == [0, 1, 2]
    placed = plan(2, 2).place(stacked)
    assert len(placed["a"].sharding.device_set) == 2
    np.testing.assert_array_equal(placed["a"], stacked["a"])


@pytest.mark.parametrize("cells", [1, 2])
def test_the_third_argument_is_shared_by_a_devices_cells(cells):
    mapped = map_members(lambda x, y, shared, z: x + 10 * y + shared.sum() + z, plan(2, cells))
    x, y, z = np.arange(3 * 2 * cells, dtype=np.float32).reshape(3, 2, cells)
    shared = np.array([[100, 0, 0], [0, 100, 100]], np.float32)
    np.testing.assert_array_equal(
        mapped(x, y, shared, z), x + 10 * y + np.array([[100], [200]]) + z
    )
    alone = of_one_device(lambda x, y, shared: x * y + shared, cells)
    np.testing.assert_array_equal(alone(x[0], y[0], 1), x[0] * y[0] + 1)


def test_bytes_of_what_is_stored():
    assert nbytes(np.zeros((3, 5), np.float16)) == 30


@pytest.mark.parametrize(("dividing", "most"), [(None, 2), (3, 1), (4, 2)])
def test_images_are_spread_over_the_devices(dividing, most):
    present = jax.local_devices()
    assert len(present) == 2  # conftest's doing
    images, everywhere = data_parallel(dividing)
    assert images.device_set == everywhere.device_set == set(present[:most])
    assert images.spec == jax.sharding.PartitionSpec("images")
    assert everywhere.is_fully_replicated


@pytest.mark.parametrize("given", [-1, 1])
def test_idle_cores_are_told_once_where_nobody_chose_them(monkeypatch, caplog, given):
    monkeypatch.setattr(jax, "local_devices", lambda: devices("cpu", 1))
    monkeypatch.setattr(execution, "usable_cores", lambda: 8)
    chosen = types.SimpleNamespace(jax_num_cpu_devices=given)
    monkeypatch.setattr(execution, "jax", types.SimpleNamespace(**vars(jax) | {"config": chosen}))
    execution._warn_of_idle_cores.cache_clear()
    for _ in range(2):
        execution_for(2, 16)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (given == -1)
    assert all('jax.config.update("jax_num_cpu_devices", 8)' in message for message in told)


_TOUCHED_AGAIN = """
import resource
import numpy as np
from privynet_jax.platform.devices import use_cpu_devices

use_cpu_devices(1)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25, np.uint8)
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(touched)
"""


@pytest.mark.skipif(
    machine.libc_ver()[0] != "glibc" or tuple(map(int, machine.libc_ver()[1].split("."))) < (2, 35),
    reason="other allocators have other rules",
)
def test_memory_that_is_used_again_is_not_fetched_anew():
    # 32 MiB, as much as glibc gives back at once by itself: 8,192 pages of 4 KiB.
    program = [sys.executable, "-c", _TOUCHED_AGAIN]
    assert int(subprocess.run(program, check=True, capture_output=True, text=True).stdout) < 100

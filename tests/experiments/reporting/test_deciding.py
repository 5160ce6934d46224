"""What a page decides on, against the planner; without a browser."""

import itertools
import json
import math

import numpy as np
import pytest
from support import handmade_episodes
from support import handmade_results as handmade

from experiments.reporting import deciding
from privynet_jax.errors import UserError
from privynet_jax.planning import planner, promise
from privynet_jax.planning.draw_meter import least_images
from privynet_jax.planning.plan import LIMITS, STATISTICS, Limits
from privynet_jax.planning.topology_plan import Characterised
from privynet_jax.results.latencies import Latencies, Latency
from privynet_jax.results.work_directory import ResultStore

SHAPES = tuple(itertools.product((2, 4), (8, 16)))


def ground(tmp_path, latencies=None, **settings):
    rng = np.random.default_rng(3)
    config = handmade.settings(selections=["random", "both"], **settings)
    results = [
        handmade.cell(
            *shape,
            draw,
            rng.uniform(0.3, 0.9),
            (handmade.attack("residual", rng.uniform(12, 30), rng.uniform(0.2, 0.7)),),
            selection,
        )
        for shape, draw, selection in itertools.product(SHAPES, (0, 1), ("random", "both"))
    ]
    store = ResultStore.open(tmp_path / "run", config)
    found = deciding.ground(store, config, results, latencies, ["plan"])
    # As the page reads it: JSON keeps every digit.
    return found, json.loads(json.dumps(found.told, allow_nan=False)), (store, config, results)


def test_the_first_that_keeps_its_limits_is_the_planner_s(tmp_path, monkeypatch):
    table = handmade_episodes.write(tmp_path / "episodes.csv", [3.5] * 20)
    monkeypatch.setattr(promise, "USUAL_EPISODES", table)
    found, told, (store, config, results) = ground(tmp_path)
    assert found.selections == ("both", "random")  # plans use both where it is
    rng = np.random.default_rng(5)
    chosen = set()
    for selection, statistic, judged in itertools.product(
        found.selections, STATISTICS, (deciding.MEASURED, deciding.EXPECTED)
    ):
        cells = [result for result in results if result.selection == selection]
        options = Characterised(store, config, cells).options(statistic)
        margins = planner.MARGINS
        if judged == deciding.MEASURED:
            options = planner.unmeasured(options)
            # Of plans that attack what was drawn, by the mean, there are episodes.
            margins = {"psnr_db": 3.5, "ssim": 0.25} if statistic == "mean" else margins
        assert f"{margins['psnr_db']:.2f} dB of PSNR" in told["margins"][statistic][judged]
        entries = told["options"][selection][statistic]
        assert [entry["merit"] for entry in entries] == sorted(o.merit for o in options)[::-1]
        for _ in range(20):
            option = options[rng.integers(len(options))]
            names = [name for name in ("psnr_db", "ssim", "local_mmacs") if rng.random() < 0.6]
            limits = {n: planner.least_limit(option, n, margins) for n in names}
            best = planner.choose(options, Limits(**limits, statistic=statistic), margins).chosen
            first = next(
                entry
                for entry in entries
                if all({**entry["cost"], **entry[judged]}[n] <= v for n, v in limits.items())
            )
            assert first["id"] == deciding.setting_id(*best.shape, best.selection)
            chosen.add(first["id"])
    assert len(chosen) > 4


def test_limits_have_sliders_where_something_is_known_of_them(tmp_path):
    found, told, _ = ground(tmp_path)
    assert [limit.name for limit in found.limits] == [
        *("psnr_db", "ssim", "local_mmacs", "storage_mib", "release_kib")
    ]
    assert len(found.absent) == 2
    assert "--latency" in found.absent[0]
    assert "epsilon" in found.absent[1]
    for limit in found.limits:
        needs = [
            {**entry["cost"], **entry[judged]}[limit.name]
            for of in told["options"].values()
            for entries in of.values()
            for entry in entries
            for judged in (deciding.MEASURED, deciding.EXPECTED)
        ]
        # Some place of the slider leaves nothing, and its end leaves everything that plan takes.
        assert 0 < limit.least <= min(needs)
        assert limit.most >= max(needs) or limit.name == "ssim"
        assert (limit.most - limit.least) / limit.step >= 40
        assert math.isclose(limit.least / limit.step, round(limit.least / limit.step))
    networks = tuple(Latency(*shape, 1.5 * shape[0]) for shape in SHAPES)
    latencies = Latencies("an abacus", "vgg16", 32, networks)
    noisy = {"mechanism": "gaussian:clip=1,sigma=45"}
    full = ground(tmp_path / "all", latencies, **noisy)[0]
    assert [limit.name for limit in full.limits] == list(LIMITS)
    assert not full.absent
    lacking = Latencies("an abacus", "vgg16", 32, networks[:-1])
    with pytest.raises(UserError, match="nothing of 4 layers with 16 channels"):
        ground(tmp_path / "lacking", lacking)


def test_the_command_tells_no_folders_of_its_owner(tmp_path, monkeypatch):
    (tmp_path / "here" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    near = deciding.command(tmp_path / "here" / "runs" / "a", None, False)
    assert near[3:] == ["--workdir=runs/a", "--sample=folder:pictures", "--out=plan.json"]
    far = deciding.command(tmp_path / "somebody" / "a", str(tmp_path / "latency.json"), False)
    assert far[3] == "--workdir=a"
    assert far[-1] == "--latency=latency.json"


def test_statistics_of_few_images_ask_for_more(tmp_path):
    flags = ground(tmp_path)[1]["flags"]
    assert flags["measured"]["mean"] == flags["measured"]["p95"] == []
    # 0.99 ** 299 < 0.05 <= 0.99 ** 298, and half of the sample is attacked.
    assert flags["measured"]["p99"] == ["--attacked_images=299", "--sample_images=598"]
    assert set(map(tuple, flags["expected"].values())) == {("--attacked_images=0",)}
    assert [least_images(name) for name in STATISTICS] == [1, 1, 59, 299]

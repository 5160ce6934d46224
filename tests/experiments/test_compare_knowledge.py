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
    Attackers,
    cases,
    check_images,
    side_by_side,
    with_fewer,
    with_pairs_of,
)
from experiments.comparing.knowledge_tables import as_text, beyond_db, picture
from privynet_jax.attacks.base import EVERYTHING, NETWORK
from privynet_jax.attacks.registry import named_attacks
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Part, as_float
from privynet_jax.results.cells import Cell
from privynet_jax.results.statistics import Interval

PROJECT = Path(__file__).parents[2]
# The command with attackers of all three classes that take seconds.
SMALL = """
from experiments import cli, compare_knowledge
from experiments.comparing.knowledge import Attackers
from privynet_jax import Budget, Training
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.public.public_attack import PublicAttack
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.training.models.attackers import RESIDUAL, capacities_of_size

training = Training(Budget(steps=2, batch_size=8), capacities=capacities_of_size(8, 0))
network = InverseNetwork(RESIDUAL, (training.capacities[RESIDUAL],), training)
small = {"steps": 2, "tuning_images": 1}
attackers = LinearInversion(), PublicAttack(network, **small), WhiteBox(**small)
compare_knowledge._attackers = lambda: Attackers(*attackers)
cli.run(compare_knowledge.main, continues=True)
"""
NONE = {"found": "", "found_in_5": "", "confidence": ""}
TOPOLOGY = Topology(1, (40, 3, 17))
GUESS = {"found": 0.5, "found_in_5": 0.75, "confidence": 0.25}


def row(layers, draw, kind, knowledge, psnr_db, pairs=0, guess=NONE):
    return {
        **{"layers": layers, "layer": f"conv{layers}", "depth": 16, "draw": draw},
        **{"class": kind, "knowledge": knowledge, "attack": "some", "images": 200, "pairs": pairs},
        **Interval(psnr_db, psnr_db - 1, psnr_db + 2).columns("psnr_db_mean"),
        **Interval(psnr_db + 5, psnr_db + 3, psnr_db + 8).columns("psnr_db_p95"),
        "psnr_db_max": psnr_db + 9,
        **{"ssim_mean": psnr_db / 50},
        **guess,
    }


@pytest.fixture
def rows():
    """Three draws; knowing the channels is worth 1, 2 and 3 dB."""
    return [
        measured
        for layers, best in ((2, 20.0), (4, 15.0))
        for draw in range(3)
        for measured in (
            row(layers, draw, "", "nothing: the mean image", 12.0),
            row(layers, draw, "pairs", "10 pairs", best - 5, pairs=10),
            row(layers, draw, "pairs", "all pairs", best - 3, pairs=200),
            row(layers, draw, "public", "pictures", best - 1, guess=GUESS),
            row(layers, draw, "public", "pictures, 10 planted", best, pairs=10, guess=GUESS),
            row(layers, draw, "leak", "everything", best + draw, pairs=200),
        )
    ]


def test_differences_are_taken_draw_by_draw(rows):
    draw = beyond_db(rows, (4, 16), "everything")
    assert draw.value == pytest.approx(2)
    # Student's t for two degrees of freedom, 4.303, times the standard error 1 / sqrt(3).
    assert draw.margin == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)


def test_the_table_says_what_each_knowledge_adds(rows):
    lines = as_text(rows).splitlines()
    assert len(lines) == 2 + 12 + 1
    _, fewer, pairs, pictures, planted, everything = lines[2:8]
    assert "-4.00 ±0.00" in fewer
    assert "-2.00 ±0.00" in pairs
    # No difference from itself.
    assert pictures.split("±")[-1].split() == ["0.00", "50,", "75,", "25"]
    assert "1.00 ±0.00" in planted
    # Draws of 20, 21 and 22 dB; over sources each is 1 dB less to 2 dB more.
    assert "21.0 ±2.5 (20.0 to 23.0)  26.0 ±2.5 (24.0 to 29.0)" in everything
    assert "2.00 ±2.48" in everything


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
    attackers = Attackers(*named_attacks(["linear", "public", "white box from linear"]))
    found = list(cases(attackers, [10, 20, 40], 1, whole, darker))
    assert [case.words for case in found] == [
        *("nothing: the mean image", "10 pairs", "20 pairs", "all pairs"),  # 40 are all
        *("pairs from another data set", "pictures", "pictures from another data set"),
        *("pictures, 10 planted", "pictures, 20 planted", "pictures, all planted", "everything"),
    ]
    assert [case.columns["class"] for case in found] == [
        "",
        *["pairs"] * 4,
        *["public"] * 5,
        "leak",
    ]
    assert [case.columns["pairs"] for case in found] == [0, 10, 20, 40, 40, 0, 0, 10, 20, 40, 40]
    by_words = {case.words: case for case in found}
    fewer = by_words["10 pairs"].scene(TOPOLOGY).pairs()
    first = whole.scene(TOPOLOGY).pairs().representations[:10]
    np.testing.assert_array_equal(fewer.representations[:], first)
    planted = by_words["pictures, 10 planted"].scene(TOPOLOGY)
    assert len(planted.pairs(NETWORK).images) == 40
    np.testing.assert_array_equal(planted.knowledge(NETWORK).planted.representations[:], first)
    assert by_words["pictures"].scene(TOPOLOGY).knowledge(NETWORK).planted is None
    other = by_words["pictures from another data set"].scene(TOPOLOGY)
    assert other.pairs(NETWORK).images is darker.parts.auxiliary.images
    observed = whole.scene(TOPOLOGY).representations("target")
    np.testing.assert_array_equal(other.knowledge(NETWORK).observed, observed)
    # Attackers of one attack are fitted side by side, but slow ones case by case.
    groups = list(side_by_side(found, [Cell(TOPOLOGY, 0), Cell(TOPOLOGY, 1)]))
    assert [len(group) for _, group in groups] == [2, 4 * 2, *[2] * 6]


def test_too_few_images_are_refused_before_anything_is_measured(whole):
    attackers = Attackers(*named_attacks(["linear", "public", "white box from linear"]))
    few = cases(attackers, [], 1, with_fewer(whole, 1, 5))
    with pytest.raises(UserError, match="the attack public was given 5 pairs; allowed are 8"):
        check_images(few)
    check_images(cases(attackers, [], 1, whole))


def run(*arguments):
    command = [sys.executable, "-c", SMALL, *map(str, arguments)]
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
    done = run(
        f"--out={tmp_path / 'out'}",
        f"--cache_dir={test_data_dir / 'weights'}",
        f"--data_dir={test_data_dir}",
        f"--other_dataset=folder:{folder_of_pictures(tmp_path / 'other')}",
        *("--layers=1", "--depths=4", "--draws=1", "--pairs=10"),
        *("--image_size=16", "--attacked_images=2"),
        "--max_images=target=20,auxiliary=24,validation=8,test=6",
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "knowledge.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("psnr_db_mean", "psnr_db_p95"):
            low, value, high = (float(row[name + end]) for end in ("_low", "", "_high"))
            assert low <= value <= high
    assert [(row["class"], row["knowledge"], row["pairs"]) for row in rows] == [
        ("", "nothing: the mean image", "0"),
        ("pairs", "10 pairs", "10"),
        ("pairs", "all pairs", "24"),
        ("pairs", "pairs from another data set", "34"),
        ("public", "pictures", "0"),
        ("public", "pictures from another data set", "0"),
        ("public", "pictures, 10 planted", "10"),
        ("public", "pictures, all planted", "24"),
        ("leak", "everything", "24"),
    ]
    found = {row["knowledge"]: row for row in rows}
    assert found["pictures, 10 planted"]["found"] == "1.0"
    assert "beyond public dB" in done.stdout
    assert len(list((tmp_path / "out" / "rows").iterdir())) == len(rows) + 1
    assert (tmp_path / "out" / "knowledge.png").stat().st_size > 10_000


REFUSED = [
    (["--layers=4,x"], "--layers=4,x"),
    (["--layers=2,4,2"], "layers repeats [2]; give each once"),
    (["--depths=300"], "depth 300"),
    (["--pairs=1"], "--pairs=1; allowed are 3 pairs and more with --attackers=strong"),
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

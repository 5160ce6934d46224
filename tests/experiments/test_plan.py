"""The planning command: limits, a characterisation and pictures in; a plan and its summary out."""

import functools
import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import handmade_episodes, tiny_runs
from support import handmade_results as handmade
from support.commands import everything_in, refused

from experiments import export_timing, plan
from privynet_jax import characterise
from privynet_jax.backbone.features.extraction import normalisation
from privynet_jax.deployment.device.timing import time_kit
from privynet_jax.errors import UserError
from privynet_jax.images.sample import digest_of, load_sample
from privynet_jax.planning import drawing, planner, promise, topology_plan
from privynet_jax.planning.options import options_of
from privynet_jax.planning.plan import Limits, read_plan
from privynet_jax.results.latencies import Latencies, Latency
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection import pruning
from privynet_jax.selection.secret_draw import entropy_bits


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """30 pictures in two classes."""
    folder, stream = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        for index in range(15):
            pixels = stream.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


# What accuracy, in hundredths, and privacy loss, in dB, a selection adds to that of random draws.
GAINS = {"random": (0, 0.0), "both": (2, -0.5), "privacy": (1, -0.5), "direct": (5, -1.0)}
# What the handmade characterisation found by direct search, layer by layer; fewer for depth 8.
SEARCHED = {2: (1, 3, *range(7, 21)), 4: tuple(range(30, 46))}


def handmade_run(folder, fingerprint, selections=("random",), mode="dedicated", **changes):
    """A finished characterisation: more layers, less privacy loss and accuracy."""
    config = handmade.settings(
        selections=list(selections), image_size=16, mode=mode, weights_fingerprint=fingerprint
    )
    config |= changes
    store = ResultStore.open(folder, config)
    for m, depth, draw, method in itertools.product((2, 4), (8, 16), (0, 1), selections):
        more_accuracy, more_loss = GAINS[method]
        psnr_db = 25.0 - 3 * m + depth / 8 + draw / 10 + more_loss
        accuracy = 0.5 + (depth + draw + more_accuracy) / 100 - m / 50
        attacks = (handmade.attack("residual", psnr_db),)
        store.save(handmade.cell(m, depth, draw, accuracy, attacks, method), {"a": np.ones(1)})
    if "direct" in selections:
        for m, depth in itertools.product((2, 4), (8, 16)):
            store.save_candidates("direct", m, depth, SEARCHED[m][:depth])
    return store.workdir


@pytest.fixture
def workdir(tmp_path, vgg_weights):
    return handmade_run(tmp_path / "run", vgg_weights.fingerprint)


@pytest.fixture
def command(run_command, workdir, pictures, test_data_dir, tmp_path):
    """Runs the command with usual arguments and more; returns status, output and error."""
    return functools.partial(
        run_command,
        plan,
        f"--workdir={workdir}",
        f"--sample=folder:{pictures}",
        f"--out={tmp_path / 'plan.json'}",
        f"--cache_dir={test_data_dir / 'weights'}",
        "--attacked_images=0",  # nobody attacks noise
    )


def test_a_plan_is_written_and_explained(command, run_of, tmp_path, vgg_weights):
    workdir = Path(run_of(["random", "both"]).partition("=")[2])
    before = everything_in(workdir)
    # 25 - 6 + 2 + 0.1 - 0.25 dB at most of (2, 16); its interval reaches about 0.2 dB further.
    status, output, error = command(
        "--max_psnr_db=23.5", "--sample_images=20", f"--workdir={workdir}"
    )
    assert (status, error) == (0, "")
    made = read_plan(tmp_path / "plan.json")
    assert made.topology.num_layers == 2
    assert made.topology.channels == made.selection.channels(16)
    assert made.selection.method == "both"
    assert made.selection.entropy_bits == entropy_bits(len(made.selection.candidates), 16)
    assert made.limits == Limits(psnr_db=23.5)
    assert made.expected.accuracy.value == pytest.approx(0.5 + 0.16 - 0.04 + 0.005 + 0.03)
    assert made.expected.psnr_db.value == pytest.approx(20.3)
    assert made.measured is made.promise is None
    assert made.expected.psnr_db.high < 21.5
    assert (made.image_size, made.class_names) == (16, ("cats", "dogs"))
    assert (made.weights, made.weights_fingerprint) == ("embedded", vgg_weights.fingerprint)
    assert (made.latency_ms, made.latency_on) == (None, "not measured")
    assert len(made.sample) == len(set(made.sample)) == 20
    known = made.characterised
    assert made.settings == json.loads((workdir / "config.json").read_text())
    assert (known["margin_db"], known["margin_ssim"], known["draws"]) == (2.0, 0.02, 2)
    assert known["selection"] == "both"
    bits = f"{made.selection.entropy_bits:.0f} bits"
    two = "release no picture under two plans"
    for part in ("Chosen: 2 layers (conv1_2), 16 channels", "margin of 2.00 dB", bits, two):
        assert part in output
    # The channels are a secret, which no terminal needs to show.
    assert ", ".join(map(str, made.topology.channels)) not in output
    assert made.selection.seed not in output
    assert (tmp_path / "plan.json").stat().st_mode & 0o077 == 0
    assert everything_in(workdir) == before


def seen_by(made, pictures):
    """The sample behind a plan, read again."""
    sample = load_sample(
        f"folder:{pictures}",
        data_dir=None,
        image_size=made.image_size,
        count=len(made.sample),
    )
    assert sample.digests == made.sample
    return sample


def test_channels_are_scored_on_the_sample(command, run_of, pictures, tmp_path, vgg_weights):
    command = functools.partial(command, run_of(["both", "privacy"]))
    assert command("--max_psnr_db=23.5", "--sample_images=20")[0] == 0
    made = read_plan(tmp_path / "plan.json")
    sample = seen_by(made, pictures)
    scores = pruning.channel_scores(vgg_weights, sample.images, sample.labels, [2])[2]
    for method in ("both", "privacy"):
        more = ("--sample_images=30", "--overwrite", f"--selection={method}")
        assert command("--max_psnr_db=23.5", *more)[0] == 0
        again = read_plan(tmp_path / "plan.json")
        assert again.selection.method == method
        # All 30 pictures now: other scores, and so most likely other candidates.
        assert len(again.sample) == 30
    assert made.selection.candidates == pruning.pruned_candidates("both", scores, 16)
    # Both criteria prune a quarter of the 64; privacy alone nothing else.
    assert 32 <= len(made.selection.candidates) <= 48
    assert len(again.selection.candidates) == 48
    scales, peaks = normalisation(vgg_weights, sample.images, made.topology)
    np.testing.assert_array_equal(np.float32(made.scales), scales)
    np.testing.assert_array_equal(np.float32(made.peaks), peaks)


def test_most_pictures_are_left_for_an_audit(command, tmp_path):
    _, output, _ = command()
    assert len(read_plan(tmp_path / "plan.json").sample) == 10
    assert "leave out the pictures that it was made with, and their copies, 10 of 30." in output


def test_every_plan_draws_its_own_channels(command, tmp_path):
    made = []
    for _ in range(2):
        assert command("--overwrite", "--selection=random")[0] == 0
        made.append(read_plan(tmp_path / "plan.json"))
    first, second = made
    assert first.selection.candidates == second.selection.candidates == tuple(range(64))
    assert first.selection.seed != second.selection.seed
    assert first.topology.channels != second.topology.channels


@pytest.fixture
def run_of(tmp_path, vgg_weights):
    """Returns the flag of a handmade run with these selections, in this mode."""

    def made(selections, mode="dedicated"):
        name = "-".join((*selections, mode))
        return (
            f"--workdir={handmade_run(tmp_path / name, vgg_weights.fingerprint, selections, mode)}"
        )

    return made


@pytest.mark.parametrize(
    ("selections", "mode", "given", "method", "measured"),
    [
        (["random", "direct"], "dedicated", [], "direct", "direct"),
        (["direct"], "dedicated", [], "direct", "direct"),
        # Estimates reward what was searched for by estimates, so nobody takes it unasked.
        (["random", "direct"], "amortised", [], "random", "random"),
        (["random", "direct"], "amortised", ["--selection=direct"], "direct", "direct"),
        (["random", "both", "direct"], "dedicated", ["--selection=both"], "both", "both"),
        (["random", "both"], "dedicated", [], "both", "both"),
        (["random", "direct"], "dedicated", ["--selection=random"], "random", "random"),
    ],
)
def test_the_selection_and_where_its_numbers_are_from(
    command, run_of, tmp_path, selections, mode, given, method, measured
):
    status, output, _ = command(run_of(selections, mode), "--max_psnr_db=30", *given)
    assert status == 0
    made = read_plan(tmp_path / "plan.json")
    assert (made.topology.num_layers, made.topology.depth) == (2, 16)
    assert made.selection.method == method
    assert f"(selection {method}, " in output
    assert made.characterised["selection"] == measured
    more_accuracy, more_loss = GAINS[measured]
    assert made.expected.accuracy.value == pytest.approx(0.635 + more_accuracy / 100)
    assert made.expected.psnr_db.value == pytest.approx(20.8 + more_loss)
    if method == "direct":
        assert made.selection.candidates == SEARCHED[2] == tuple(sorted(made.topology.channels))
        assert made.selection.entropy_bits == 0
        assert "the best 16 channels that the search found (selection direct, 0 bits" in output
    else:
        assert "16 secret channels, drawn at random from " in output


@pytest.mark.parametrize("mode", ["dedicated", "amortised"])
def test_direct_needs_a_search(command, run_of, tmp_path, mode):
    done = command(run_of(["random", "both"], mode), "--selection=direct")
    refused(
        done,
        "--selection=direct needs a characterisation with cells of it",
        "has the selections random, both; characterise with --selections=direct",
    )
    assert not (tmp_path / "plan.json").exists()


def test_a_selection_without_numbers_is_refused(command, run_of, tmp_path):
    only_direct = run_of(["direct"])
    refused(command(only_direct, "--selection=both"), "the selections direct; characterise with")
    assert not (tmp_path / "plan.json").exists()


def test_lost_or_damaged_candidates(command, run_of, tmp_path):
    flag = run_of(["random", "direct"])
    (lost,) = tmp_path.glob("random-direct-*/candidates/direct_m02_d016.json")
    content = lost.read_text()
    lost.write_text(content[: len(content) // 2])
    refused(command(flag), "direct_m02_d016.json is missing or damaged")
    lost.unlink()
    refused(command(flag), "direct_m02_d016.json is missing or damaged", "characterize")
    assert not (tmp_path / "plan.json").exists()
    # Only the chosen topology's are needed.
    assert command(flag, "--max_psnr_db=15")[0] == 0
    assert read_plan(tmp_path / "plan.json").topology.num_layers == 4


def test_margin_statistic_and_limits_are_the_users(command, tmp_path):
    assert command("--max_psnr_db=22.5", "--margin_db=2")[0] == 0
    assert read_plan(tmp_path / "plan.json").topology.num_layers == 4
    # The 95th percentile is 5 dB above the mean in these results.
    limits = ("--max_psnr_db=27.5", "--statistic=p95", "--max_release_kib=8")
    assert command("--overwrite", *limits, "--max_storage_mib=0.25")[0] == 0
    made = read_plan(tmp_path / "plan.json")
    assert (made.topology.num_layers, made.topology.depth) == (2, 8)
    assert made.limits == Limits(27.5, None, None, 0.25, 8.0, statistic="p95")
    assert made.expected.psnr_db.value == pytest.approx(19.8 + 5)


def test_nothing_fits(command, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing more is needed")

    monkeypatch.setattr(drawing, "Meter", refuse)
    for name in ("matching_weights", "load_sample"):
        monkeypatch.setattr(topology_plan, name, refuse)
    done = command("--max_psnr_db=12", "--max_latency_ms=5")
    explained = ("no characterised topology keeps --max_psnr_db=12; the smallest change", "was 12")
    refused(done, *explained, silently=False)
    assert "Nothing that was characterised keeps the limits." in done[1]
    assert not (tmp_path / "plan.json").exists()
    # What is proposed is enough.
    proposed = done[2].partition("--max_psnr_db=12;")[2].partition("--max_psnr_db=")[2].split()[0]
    limits = Limits(psnr_db=float(proposed))
    store, config = ResultStore.existing(tmp_path / "run")
    options = options_of(store.grid_results(config), 16, "mean")
    assert planner.choose(options, limits).chosen


def test_the_mechanism_is_chosen_as_well(command, tmp_path, vgg_weights):
    noise = "laplace:clip=0.5,scale=100"
    noisy = handmade_run(tmp_path / "noisy", vgg_weights.fingerprint, mechanism=noise)
    among = f"--under_mechanisms={noisy}"
    assert command(among)[0] == 0  # the split alone, where both are as good
    made = read_plan(tmp_path / "plan.json")
    assert (made.mechanism, made.unit, made.epsilon) == ("none", 1.0, None)
    status, output, _ = command("--overwrite", among, "--max_epsilon=50")
    assert status == 0
    made = read_plan(tmp_path / "plan.json")
    # 16 * 16 * 16 values are clipped to a mean magnitude of 0.5, and two may be twice that apart.
    assert made.epsilon == pytest.approx(16**3 / 100)
    assert (made.mechanism, made.topology.num_layers) == (noise, 2)
    assert made.settings["mechanism"] == noise
    # The variance of Laplace noise is twice its scale's square; the clipped values add little.
    assert made.unit == pytest.approx(100 * 2**0.5, rel=0.02)
    assert made.cost["epsilon"] == made.epsilon
    assert f"16 channels, {noise}" in output
    assert "of one release's local differential privacy" in output

    refused(command("--overwrite", "--max_epsilon=50"), "needs a characterisation with noise")
    refused(command("--overwrite", among, "--max_epsilon=1"), "the smallest change", silently=False)
    refused(command("--overwrite", f"{among},{noisy}"), "have one mechanism", "give one of each")
    other = handmade_run(tmp_path / "x", vgg_weights.fingerprint, mechanism="dropout", seed=7)
    refused(command("--overwrite", f"--under_mechanisms={other}"), "with seed 0 and 7")
    refused(command("--overwrite", "--under_mechanisms=nowhere"), "nowhere is no work directory")
    with pytest.raises(UserError, match="leave one of both out"):
        topology_plan.plan_topology(
            [tmp_path / "run", noisy],
            "folder:pictures",
            Limits(),
            settings=drawing.PlanSettings(episodes=[]),
        )
    assert read_plan(tmp_path / "plan.json") == made


def test_margins_are_of_episodes_unless_one_is_given(workdir, tmp_path, monkeypatch):
    table = handmade_episodes.write(tmp_path / "usual.csv", [3.5] * 20, image_size=16)
    monkeypatch.setattr(promise, "USUAL_EPISODES", table)
    grid = [topology_plan.characterised_cells(workdir)]

    def margins(statistic="mean", **given):
        settings = drawing.PlanSettings(**given)
        found, promised = topology_plan.margins_of(grid, Limits(statistic=statistic), settings)
        return *found.values(), promised and promised.episodes

    assert margins() == (3.5, handmade_episodes.MORE_SSIM, 20)
    assert margins(statistic="p95") == margins(attacked_images=0) == (2.0, 0.02, None)
    assert margins(margin_db=1.0) == (1.0, 0.02, None)
    assert margins(training=4.0) == (2.0, 0.02, None)  # episodes train as long as is usual
    assert margins(margin_ssim=0.0) == (2.0, 0.0, None)
    more = handmade_episodes.write(tmp_path / "own.csv", [4.5] * 30, image_size=16)
    assert margins(episodes=promise.read_episodes(more)) == (4.5, handmade_episodes.MORE_SSIM, 30)
    with pytest.raises(UserError, match=r"of 0 sources .* run experiments\.check_planning"):
        margins(episodes=[])


def test_latency_is_measured_where_it_is_limited_or_asked_for(command, run_command, tmp_path):
    status, output, _ = command("--max_latency_ms=1000")
    made = read_plan(tmp_path / "plan.json")
    assert status == 0
    assert 0 < made.latency_ms < 1000
    assert "onnxruntime" in made.latency_on
    assert made.cost["latency_ms"] == made.latency_ms
    assert f"latency is of one image on {made.latency_on}" in output

    assert command("--overwrite", "--measure_latency")[0] == 0
    assert read_plan(tmp_path / "plan.json").latency_ms > 0

    # What a device measured takes the place of this machine.
    networks = tuple(Latency(m, d, 7.5 * m) for m in (2, 4) for d in (8, 16))
    Latencies("a phone", "vgg16", 16, networks).write(tmp_path / "latency.json")
    by_device = ("--overwrite", f"--latency={tmp_path / 'latency.json'}", "--max_latency_ms=20")
    status, output, _ = command(*by_device)
    made = read_plan(tmp_path / "plan.json")
    assert (made.topology.num_layers, made.latency_ms, made.latency_on) == (2, 15.0, "a phone")
    assert "latency is of one image on a phone" in output

    # And the folder that lets it has a network for all that a plan may choose among.
    done = run_command(
        export_timing, f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'timing'}"
    )
    assert done.status == 0, done.error
    assert "has 4 networks to measure" in done.output
    assert [(n.num_layers, n.depth) for n in time_kit(tmp_path / "timing").networks] == [
        *((2, 8), (2, 16), (4, 8), (4, 16)),
    ]

    before = (tmp_path / "plan.json").read_bytes()
    Latencies("a phone", "vgg16", 16, networks[:1]).write(tmp_path / "latency.json")
    done = command(*by_device)
    refused(done, "--latency has nothing of 2 layers with 16 channels; measure again")
    (tmp_path / "latency.json").write_text("{}")
    refused(command(*by_device), "latency.json is of version None")
    done = command("--overwrite", "--max_latency_ms=0.000001")
    explained = ("keeps --max_latency_ms=1e-06", "smallest change that helps is --max_latency_ms=")
    refused(done, *explained, silently=False)
    assert (tmp_path / "plan.json").read_bytes() == before


def test_a_plan_that_exists_is_kept(command, tmp_path):
    assert command()[0] == 0
    before = everything_in(tmp_path)
    refused(command(), "plan.json exists", "--overwrite")
    assert everything_in(tmp_path) == before
    assert command("--overwrite", "--max_storage_mib=0.25", "--max_release_kib=8")[0] == 0
    assert read_plan(tmp_path / "plan.json").topology.depth == 8
    for content in (b"\x89PNG", b"[]", b'{"version": 1}'):
        (tmp_path / "plan.json").write_bytes(content)
        refused(command("--overwrite"), "plan.json is no plan, which --overwrite replaces")
        assert (tmp_path / "plan.json").read_bytes() == content


def test_what_came_to_the_place_of_a_plan_meanwhile_is_kept(command, tmp_path, monkeypatch):
    assert command()[0] == 0
    planned = plan.plan_topology

    def meanwhile(*given):
        (tmp_path / "plan.json").write_bytes(b"mine")
        return planned(*given)

    monkeypatch.setattr(plan, "plan_topology", meanwhile)
    status, output, _ = command("--overwrite")
    assert status == 0
    assert "as something else is at" in output
    assert (tmp_path / "plan.json").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--out="], ["no --out is given"]),
        (["--out=/no/such/folder/plan.json"], ["in a folder that exists"]),
        (["--out=/tmp"], ["must be a file"]),
        (["--workdir="], ["no --workdir is given"]),
        (["--workdir=/no/such/run"], ["/no/such/run is no work directory"]),
        (["--sample="], ["no --sample is given"]),
        (["--sample=folder:/no/such/folder"], ["/no/such/folder is no folder"]),
        (["--sample_images=0"], ["sample_images is 0"]),
        (["--sample_images=3"], ["--sample_images=4 or more"]),
        (["--weights=resnet"], ["'resnet'", "allowed: embedded"]),
        (["--max_psnr_db=-3"], ["the limit psnr_db is -3.0; allowed are positive numbers"]),
        (["--max_ssim=nan"], ["--max_ssim=nan: allowed are finite numbers"]),
        (["--max_local_mmacs=lots"], ["--max_local_mmacs=lots"]),
        (["--max_storage_mib=0"], ["the limit storage_mib is 0.0"]),
        (["--margin_db=-1"], ["the margin of psnr_db is -1.0"]),
        (["--margin_ssim=inf"], ["--margin_ssim=inf: allowed are finite numbers"]),
        (["--statistic=p90"], ["--statistic=p90", "mean|median|p95|p99"]),
        (["--selection=luck"], ["--selection=luck"]),
        (["--selection=fisher"], ["--selection=fisher needs a characterisation with cells"]),
        (["--attacked_images=-1"], ["--attacked_images=-1"]),
        (["--episodes=/no/such"], ["--episodes=/no/such does not exist"]),
        ([f"--episodes={promise.USUAL_EPISODES}"], ["--episodes say what margins are to be"]),
        (["--episodes=README.md", "--attacked_images=9"], ["README.md has no episodes"]),
        (["plan.json"], ["unexpected argument 'plan.json'"]),
    ],
)
def test_wrong_input(command, tmp_path, arguments, expected):
    before = everything_in(tmp_path)
    refused(command(*arguments), *expected)
    assert everything_in(tmp_path) == before


def test_other_weights_are_refused(command, workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**config, "weights_fingerprint": "0" * 64}))
    refused(command(), "was characterised with other weights than embedded", "give --weights")
    assert not (tmp_path / "plan.json").exists()


def test_an_unfinished_characterisation_is_refused(command, workdir, tmp_path):
    (workdir / "cells" / "m04_d016_r01.json").unlink()
    refused(command(), "is not finished: 1 of 8 cells are missing")
    assert not (tmp_path / "plan.json").exists()


def test_unreadable_pictures(command, pictures, tmp_path, caplog):
    mine = tmp_path / "mine"
    shutil.copytree(pictures, mine)
    (mine / "cats" / "bad.png").write_bytes(b"no picture")
    everything = (f"--sample=folder:{mine}", "--sample_images=100")
    refused(command(*everything), "bad.png", "--skip_unreadable")
    assert command(*everything, "--skip_unreadable")[0] == 0
    assert "skipped 1 unreadable" in caplog.text
    assert len(read_plan(tmp_path / "plan.json").sample) == 30


def test_the_sample_is_drawn_by_no_chance(command, tmp_path, pictures):
    assert command("--sample_images=10")[0] == 0
    first = read_plan(tmp_path / "plan.json")
    assert command("--sample_images=10", "--overwrite")[0] == 0
    assert read_plan(tmp_path / "plan.json").sample == first.sample
    sizes = {len(digest) for digest in first.sample}
    assert sizes == {len(digest_of(np.zeros((16, 16, 3), np.uint8)))}


@pytest.mark.slow
def test_a_real_characterisation(command, tmp_path, test_data_dir, vgg_weights, photo_parts):
    """In the mode that trains no networks."""
    config = tiny_runs.settings(
        tmp_path / "characterised",
        test_data_dir,
        layers=(3,),
        depths=(2, 4),
        mode="linear",
        attackers=(),  # the mode has its own
        scoring_images=20,
        examples=1,
    )
    results = characterise(config).results
    begun = time.monotonic()
    status, output, _ = command(f"--workdir={config.workdir}", f"--cache_dir={config.cache_dir}")
    assert status == 0
    assert time.monotonic() - begun < 30  # a few seconds, where nobody else computes
    made = read_plan(tmp_path / "plan.json")
    means = {
        shape: np.mean([r.validation_accuracy for r in results if (r.num_layers, r.depth) == shape])
        for shape in {(r.num_layers, r.depth) for r in results}
    }
    chosen = (made.topology.num_layers, made.topology.depth)
    assert made.expected.accuracy.value == pytest.approx(means[chosen])
    assert means[chosen] == max(means.values())
    assert "mode linear, seed 0" in output
    assert "WARNING: the mode linear estimates" in output

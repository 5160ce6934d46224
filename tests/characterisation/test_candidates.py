"""A grid's candidates: found once, kept with the work directory, and drawn from by its cells."""

import dataclasses
import json

import pytest
from support import tiny_runs

from privynet_jax import characterise
from privynet_jax.characterisation import candidates as candidates_room
from privynet_jax.errors import UserError
from privynet_jax.estimates import amortised
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import load_parts
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection.pruning import channel_scores, pruned_candidates

pytestmark = pytest.mark.slow
LIMITS = {"target": 90, "auxiliary": 60, "validation": 30, "test": 32}


@pytest.fixture(scope="module")
def finished(vgg_weights, photo_parts, test_data_dir, tmp_path_factory):
    """A run with all selections; its search is as short as it can be."""
    config = tiny_runs.settings(
        tmp_path_factory.mktemp("selections"),
        test_data_dir,
        layers=(3,),
        depths=(16,),
        selections=("random", "fisher", "both", "direct"),
        max_images=LIMITS,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("FIRST", 16), ("ROUNDS", 1), ("PER_ROUND", 16)):
            patch.setattr(candidates_room.search, name, value)
        for name in ("POOL", "_LEAST_POOL"):
            patch.setattr(amortised, name, 16)
        return config, characterise(config)


def test_cells_draw_from_what_was_kept(finished):
    _, done = finished
    assert [result.selection for result in done.results[::2]] == [
        *("random", "fisher", "both", "direct")
    ]
    for result in done.results[2:6]:
        assert set(result.channels) < set(done.store.load_candidates(result.selection, 3, 16))
    # The quarter with the lowest scores is out.
    assert len(done.store.load_candidates("fisher", 3, 16)) == 96
    assert len({result.channels for result in done.results}) == 7
    assert {result.name for result in done.results} >= {"m03_d016_r00", "m03_d016_direct_r00"}


def test_what_was_searched_for_is_released_and_trained_anew(finished):
    """Draws of direct have one name and one training each, and the same channels."""
    _, done = finished
    one, other = done.results[6:]
    assert one.channels == other.channels == done.store.load_candidates("direct", 3, 16)
    assert (one.name, other.name) == ("m03_d016_direct_r00", "m03_d016_direct_r01")
    assert one.attacks[-1].psnr_db.mean != other.attacks[-1].psnr_db.mean


def test_the_search_trains_an_attacker_and_no_cloud_nn(finished):
    _, done = finished
    kept = [path.name for path in (done.store.workdir / "networks").iterdir()]
    assert kept == ["layer_03_attacker"]


def test_pruning_is_that_of_the_target_part(finished, vgg_weights, test_data_dir):
    _, done = finished
    parts = load_parts("photo_patches", data_dir=test_data_dir, image_size=16, max_images=LIMITS)
    rows = spread_over_classes(parts.target.labels, 500)
    images, labels = parts.target.images[rows], parts.target.labels[rows]
    scores = channel_scores(vgg_weights, images, labels, [3])[3]
    kept = done.store.load_candidates("both", 3, 16)
    assert kept == pruned_candidates("both", scores, 16)


def test_cells_that_are_not_wanted_are_not_searched_for(tmp_path, test_data_dir):
    config = tiny_runs.settings(
        *(tmp_path, test_data_dir),
        **{"layers": (2, 3), "depths": (8, 16), "selections": ("random", "direct")},
        only=("m02_d008_r00", "m03_d016_direct_r00"),
    )
    asked = []

    def search(places):
        asked.extend(places)
        return ((place, tuple(range(place[2]))) for place in places)

    store = ResultStore(tmp_path)
    found = candidates_room.find_candidates(config, config.cells(), None, None, store, search)
    assert asked == list(found) == [("direct", 3, 16)]
    assert [cell.topology.channels for cell in config.cells(found)][1] == tuple(range(16))


def test_nothing_is_searched_twice(finished, monkeypatch):
    config, done = finished

    def refuse(*_, **__):
        raise AssertionError("the candidates were there already")

    monkeypatch.setattr(candidates_room, "channel_scores", refuse)
    monkeypatch.setattr(candidates_room, "SubsetScorer", refuse)
    assert characterise(config).results == done.results


def test_damaged_candidates_are_named(finished):
    _, done = finished
    path = done.store.workdir / "candidates" / "direct_m03_d016.json"
    content = path.read_text()
    wrong = ([1, 1], [128], list(range(15)), list(range(17)), 3, None)
    damages = [*({"channels": channels} for channels in wrong), {"candidates": list(range(16))}]
    for damage in ("{", *map(json.dumps, damages)):
        path.write_text(damage)
        with pytest.raises(UserError, match=r"direct_m03_d016.json is missing or damaged"):
            done.store.load_candidates("direct", 3, 16)
    path.write_text(content)


def test_other_selections_are_other_settings(finished):
    config, _ = finished
    with pytest.raises(UserError, match="selections was"):
        characterise(dataclasses.replace(config, selections=("random",)))
    with pytest.raises(UserError, match="selections name best; allowed are random, fisher"):
        dataclasses.replace(config, selections=("best",)).cells()

"""The candidates of a grid: from which channels each selection's draws are made.

`pruning` prunes channels by their scores on a labelled sample; `search` finds the best subset,
which is every draw of `direct`. What they find belongs to a work directory and is kept there, in
`candidates/`: `run` draws a grid's cells from it, and plans of `direct` release it.

    candidates = find_candidates(config, parts, weights, features, store)
    cells = config.cells(candidates)
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import jax

from privynet_jax.backbone.backbones import backbone_named
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import DIRECT, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import spread_of
from privynet_jax.characterisation.scoring import amortised_checkpoint, layer_training
from privynet_jax.estimates import amortised, layer_networks
from privynet_jax.estimates.layer_networks import LayerData, trained_networks
from privynet_jax.estimates.subsets import layer_sums
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cells import Candidates
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection import search
from privynet_jax.selection.pruning import channel_scores, pruned_candidates
from privynet_jax.selection.subset_scores import AmortisedPsnr, SubsetScorer
from privynet_jax.training.batches import stream_of
from privynet_jax.training.session import session

# Labelled images on which channels are scored, of the target part.
_SAMPLE = 500

_Found = dict[tuple[str, int, int], tuple[int, ...]]


def find_candidates(
    config: Config,
    parts: Parts,
    weights: PretrainedWeights,
    features: Callable[[], Mapping[int, LayerFeatures]],
    store: ResultStore,
) -> Candidates:
    """Returns the candidates of every selection but the random one, finding those not kept yet.

    Args:
        config: the grid.
        parts: images and labels.
        weights: the pretrained network.
        features: returns layer -> features with all channels; called where they are needed.
        store: the work directory, which keeps what was found.

    Raises:
        UserError: a kept file is damaged, or training diverged.
    """
    selections = [selection for selection in config.selections if selection != RANDOM]
    places = list(itertools.product(selections, sorted(config.layers), sorted(config.depths)))
    found = {
        place: store.load_candidates(*place, config.backbone)
        for place in places
        if store.has_candidates(*place)
    }
    missing = [place for place in places if place not in found]
    pruned = [place for place in missing if place[0] != DIRECT]
    if pruned:
        found |= _pruned(pruned, parts, weights, store)
    for num_layers in sorted({m for method, m, _ in missing if method == DIRECT}):
        depths = [depth for method, m, depth in missing if (method, m) == (DIRECT, num_layers)]
        # In a function of its own, so that a layer's data leave the devices before the next come.
        found |= _optimised(config, parts, features()[num_layers], depths, store)
    return found


def _pruned(
    places: Sequence[tuple[str, int, int]],
    parts: Parts,
    weights: PretrainedWeights,
    store: ResultStore,
) -> _Found:
    rows = spread_over_classes(parts.target.labels, _SAMPLE)
    layers = sorted({m for _, m, _ in places})
    images, labels = parts.target.images[rows], parts.target.labels[rows]
    scores = channel_scores(weights, images, labels, layers)
    found: _Found = {}
    for method, num_layers, depth in places:
        candidates = pruned_candidates(method, scores[num_layers], depth)
        store.save_candidates(method, num_layers, depth, candidates)
        found[method, num_layers, depth] = candidates
    return found


def _optimised(
    config: Config, parts: Parts, layer: LayerFeatures, depths: Sequence[int], store: ResultStore
) -> _Found:
    attack = _attack(config, parts, layer, max(depths), store)
    scorer = SubsetScorer(layer, parts, max(depths), attack)
    key = amortised.layer_key(layer.num_layers, config.seed)
    name = backbone_named(config.backbone).cut(layer.num_layers).name
    found: _Found = {}
    for depth in depths:
        # Beyond what the layer's amortised networks derive from the same key.
        stream = stream_of(jax.random.fold_in(key, 2 + depth))
        with progress_bar(1, f"searching channels of {name}, depth {depth}") as advance:
            best = search.search(scorer, len(layer.channels), depth, stream, progress=advance)
        store.save_candidates(DIRECT, layer.num_layers, depth, best)
        found[DIRECT, layer.num_layers, depth] = best
    return found


def _attack(
    config: Config, parts: Parts, layer: LayerFeatures, width: int, store: ResultStore
) -> AmortisedPsnr:
    """The attack of the layer's amortised attacker; its cloud NN is not needed here."""
    name = layer_networks.ATTACKER
    learnt = {name: layer_training(config, parts)[name]}
    data = LayerData(layer, layer_sums(layer, parts, max(config.depths)), parts)
    with session(spread=spread_of(config), checkpoint=amortised_checkpoint(config, layer)):
        networks = trained_networks(
            data, learnt, config.depths, store.workdir / "networks", config.seed
        )
    return AmortisedPsnr(data, learnt[name][0], networks[name], width)

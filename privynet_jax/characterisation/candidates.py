"""The candidates of a grid: from which channels each selection's draws are made.

`pruning` prunes channels by their scores on a labelled sample; `search` finds the best subset,
which is every draw of `direct`. What they find belongs to a work directory and is kept there, in
`candidates/`: `run` draws a grid's cells from it, and plans of `direct` release it.

    candidates = find_candidates(config, parts, weights, features, store)
    cells = config.cells(candidates)
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

from privynet_jax.backbone.backbones import backbone_named
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import DIRECT, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.scoring import layer_data, layer_networks, layer_training
from privynet_jax.estimates.amortised import ATTACKER, layer_key
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cells import Candidates
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection import search
from privynet_jax.selection.pruning import channel_scores, pruned_candidates
from privynet_jax.selection.subset_scores import AmortisedPsnr, SubsetScorer
from privynet_jax.training.batches import stream_of

# Labelled images on which channels are scored, of the target part.
_SAMPLE = 500

# Selection, number of layers, depth.
_Place = tuple[str, int, int]


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
    layers = sorted({m for method, m, _ in missing if method == DIRECT})
    for place, channels in itertools.chain(
        _pruned([place for place in missing if place[0] != DIRECT], parts, weights),
        *(
            _searched([p for p in missing if p[:2] == (DIRECT, m)], config, parts, features)
            for m in layers
        ),
    ):
        store.save_candidates(*place, channels)
        found[place] = channels
    return found


def _pruned(
    places: Sequence[_Place], parts: Parts, weights: PretrainedWeights
) -> Iterator[tuple[_Place, tuple[int, ...]]]:
    if not places:
        return
    rows = spread_over_classes(parts.target.labels, _SAMPLE)
    layers = sorted({m for _, m, _ in places})
    images, labels = parts.target.images[rows], parts.target.labels[rows]
    scores = channel_scores(weights, images, labels, layers)
    for method, num_layers, depth in places:
        yield (method, num_layers, depth), pruned_candidates(method, scores[num_layers], depth)


def _searched(
    places: Sequence[_Place],
    config: Config,
    parts: Parts,
    features: Callable[[], Mapping[int, LayerFeatures]],
) -> Iterator[tuple[_Place, tuple[int, ...]]]:
    """Of one layer, by its amortised attacker; its cloud NN is not needed here."""
    num_layers, width = places[0][1], max(depth for _, _, depth in places)
    layer = features()[num_layers]
    learnt = {ATTACKER: layer_training(config, parts)[ATTACKER]}
    data = layer_data(config, layer, parts)
    params = layer_networks(config, data, learnt)[ATTACKER]
    attack = AmortisedPsnr(data, learnt[ATTACKER][0], params, width)
    scorer = SubsetScorer(layer, parts, width, attack)
    key = layer_key(num_layers, config.seed)
    name = backbone_named(config.backbone).cut(num_layers).name
    for place in places:
        # Beyond what the layer's amortised networks derive from the same key.
        stream = stream_of(jax.random.fold_in(key, 2 + place[2]))
        with progress_bar(1, f"searching channels of {name}, depth {place[2]}") as advance:
            best = search.search(scorer, len(layer.channels), place[2], stream, progress=advance)
        yield place, best

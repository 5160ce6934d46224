"""The candidates of a grid: from which channels each selection's draws are made.

`pruning` prunes channels by their scores on a labelled sample; `search` finds the best subset,
which is every draw of `direct`. What they find belongs to a work directory and is kept there, in
`candidates/`: `run` draws a grid's cells from it, and plans of `direct` release it.

    candidates = find_candidates(config, config.cells(), parts, weights, store, search)
    cells = config.cells(candidates)
"""

import itertools
import operator
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
from privynet_jax.results.cells import Candidates, Cell
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection import search
from privynet_jax.selection.pruning import channel_scores, pruned_candidates
from privynet_jax.selection.subset_scores import AmortisedPsnr, SubsetScorer
from privynet_jax.training.batches import stream_of

# Labelled images on which channels are scored, of the target part.
_SAMPLE = 500

# Selection, number of layers, depth; and the channels that were found there.
Place = tuple[str, int, int]
Found = tuple[Place, tuple[int, ...]]


def find_candidates(
    config: Config,
    cells: Sequence[Cell],
    parts: Parts,
    weights: PretrainedWeights,
    store: ResultStore,
    search: Callable[[Sequence[Place]], Iterator[Found]],
) -> Candidates:
    """Returns the candidates of all cells but random ones, finding those not kept yet.

    The cells are the configuration's; their channels do not matter. `search` does what
    `searched_channels` does.

    Raises:
        UserError: a kept file is damaged, or training diverged.
    """
    every = ((cell.selection, cell.topology.num_layers, cell.topology.depth) for cell in cells)
    places = list(dict.fromkeys(place for place in every if place[0] != RANDOM))
    found = {
        place: store.load_candidates(*place, config.backbone)
        for place in places
        if store.has_candidates(*place)
    }
    missing = [place for place in places if place not in found]
    pruned = [place for place in missing if place[0] != DIRECT]
    searched = [place for place in missing if place[0] == DIRECT]
    for place, channels in itertools.chain(_pruned(pruned, parts, weights), search(searched)):
        store.save_candidates(*place, channels)
        found[place] = channels
    return found


def _pruned(places: Sequence[Place], parts: Parts, weights: PretrainedWeights) -> Iterator[Found]:
    if not places:
        return
    rows = spread_over_classes(parts.target.labels, _SAMPLE)
    layers = sorted({m for _, m, _ in places})
    images, labels = parts.target.images[rows], parts.target.answers[rows]
    scores = channel_scores(weights, images, labels, layers)
    for method, num_layers, depth in places:
        yield (method, num_layers, depth), pruned_candidates(method, scores[num_layers], depth)


def searched_channels(
    places: Sequence[Place],
    config: Config,
    parts: Parts,
    features: Callable[[], Mapping[int, LayerFeatures]],
) -> Iterator[Found]:
    """Yields the channels that `DIRECT` releases at its places, layers ascending.

    They are judged by each layer's amortised attacker; its cloud NN is not needed here. Features,
    with all channels, are asked for when they are needed.
    """
    for num_layers, of_layer in itertools.groupby(places, key=operator.itemgetter(1)):
        learnt = {ATTACKER: layer_training(config, parts)[ATTACKER]}
        depths = [depth for _, _, depth in of_layer]
        layer, width = features()[num_layers], max(depths)
        data = layer_data(config, layer, parts)
        params = layer_networks(config, data, learnt)[ATTACKER]
        attack = AmortisedPsnr(data, learnt[ATTACKER][0], params, width)
        scorer = SubsetScorer(layer, parts, width, attack)
        key = layer_key(num_layers, config.seed)
        name = backbone_named(config.backbone).cut(num_layers).name
        for depth in depths:
            # Beyond what the layer's amortised networks derive from the same key.
            stream = stream_of(jax.random.fold_in(key, 2 + depth))
            with progress_bar(1, f"searching channels of {name}, depth {depth}") as advance:
                best = search.search(scorer, len(layer.channels), depth, stream, progress=advance)
            yield (DIRECT, num_layers, depth), best

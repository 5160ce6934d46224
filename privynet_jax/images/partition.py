"""Which examples go where: whole groups dealt out to parts, and samples with classes alike.

`parts` cuts a data set's examples into parts with it, from labels and groups alone. No JAX here.

    parts = split_groups(labels, groups, {"target": 0.7, "validation": 0.3}, seed=0)
    sample = spread_over_classes(labels, 100)
    scored = evenly_spread(labels, detail(images), 64)
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from privynet_jax.errors import UserError

# Held out: this share, but no more images than tell candidates apart.
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.1, 256
_GALLERY = 1000
# Pixels that are compared lie so far apart; images that are looked at together.
_AWAY, _AT_ONCE = 4, 256


def split_groups(
    labels: np.ndarray, groups: np.ndarray, fractions: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Assigns examples to named parts by whole groups, class by class.

    The groups of a class are permuted by a stream that depends on (seed, class) alone, then dealt
    out so that its examples follow the fractions as closely as whole groups allow. A class with at
    least as many groups as there are parts reaches every part.

    Labels and groups are int [N]; a group belongs to the class of its first example. The fractions
    are part name -> share of a class's examples, and sum to 1, else UserError. Returns part name ->
    indices into `labels`, shuffled; each example is in exactly one part.
    """
    if labels.shape != groups.shape or labels.ndim != 1:
        raise UserError(f"Expected labels and groups [N], got {labels.shape} and {groups.shape}")
    if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise UserError(f"Expected positive fractions that sum to 1, got {dict(fractions)}")
    names = sorted(fractions)  # the order of a mapping must not matter
    group_ids, firsts, sizes = np.unique(groups, return_index=True, return_counts=True)
    part_of_group = np.empty(len(group_ids), int)
    for label in np.unique(labels[firsts]):
        members = np.flatnonzero(labels[firsts] == label)
        shuffled = np.random.default_rng([seed, label]).permutation(members)
        part_of_group[shuffled] = _deal(sizes[shuffled], [fractions[name] for name in names])
    part_of_example = part_of_group[np.searchsorted(group_ids, groups)]
    return {
        name: stream_of(seed, name).permutation(
            np.flatnonzero(part_of_example == names.index(name))
        )
        for name in fractions
    }


def spread_over_classes(labels: np.ndarray, count: int | None) -> np.ndarray:
    """Returns indices of `count` examples: the first of every class, then the second of every, ...

    In shuffled data, as parts are, that is a random sample with classes as equal as possible. None
    stands for all.
    """
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(labels), int)
    rank[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.argsort(rank, kind="stable")[:count]


def evenly_spread(
    labels: np.ndarray, amounts: np.ndarray, count: int | None, share: float = 1.0
) -> np.ndarray:
    """Returns indices, ascending, of `count` examples, of classes as equal as possible.

    Of each class evenly along some amounts, float [N], and no more than a share. Means of what
    depends on the amounts vary less than those of examples by chance: it is a stratified sample.
    None stands for as many as there may be.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    allowed = labels[np.concatenate([own[: math.ceil(share * len(own))] for own in members])]
    chosen = allowed[spread_over_classes(allowed, count)]
    found = []
    for own in members:
        many = np.count_nonzero(chosen == labels[own[0]])
        places = (np.arange(many) + 0.5) * len(own) / max(1, many)
        found.append(own[np.argsort(amounts[own], kind="stable")][places.astype(int)])
    return np.sort(np.concatenate(found))


def detail(images: np.ndarray) -> np.ndarray:
    """Returns how much pixels of images uint8 [N, H, W, 3] differ from ones nearby, squared, [N].

    Much of how well a picture can be rebuilt depends on it.
    """
    found = np.zeros(len(images))
    away = min(_AWAY, images.shape[1] - 1)
    for start in range(0, len(images), _AT_ONCE):
        x = np.asarray(images[start : start + _AT_ONCE], np.float32)
        for differences in (x[:, away:] - x[:, :-away], x[:, :, away:] - x[:, :, :-away]):
            found[start : start + len(x)] += np.mean(differences**2, axis=(1, 2, 3))
    return found


def galleries(count: int) -> int:
    """Returns into how many galleries so many images are divided, as equally as possible.

    A picture that was rebuilt is looked for among those of its gallery, at most 1,000.
    """
    return max(1, -(-count // _GALLERY))


def joined(groups: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Returns groups, int64 [N], of which those are one that hold an example and its link.

    Links are the place, int [N], of another example of the same group, or of the example itself.
    Joined groups have the least of their numbers, all others their own.
    """
    if np.array_equal(links, np.arange(len(groups))):
        return groups
    import scipy  # devices, which part nothing, do without

    known, numbers = np.unique(groups, return_inverse=True)
    ends, shape = (numbers, numbers[links]), (len(known), len(known))
    edges = scipy.sparse.coo_matrix((np.ones(len(groups)), ends), shape)
    _, of_known = scipy.sparse.csgraph.connected_components(edges, directed=False)
    least = known[np.unique(of_known, return_index=True)[1]]
    return least[of_known][numbers]


def stream_of(seed: int, name: str) -> np.random.Generator:
    """Returns the generator of a name, which no other name's use changes."""
    return np.random.default_rng([seed, *name.encode()])


def _deal(sizes: np.ndarray, fractions: Sequence[float]) -> list[int]:
    """Gives each group in turn to the part that lacks most of its share; returns part indices."""
    lacking = [sizes.sum() * fraction for fraction in fractions]
    empty = set(range(len(fractions)))
    dealt = []
    for left, size in zip(range(len(sizes), 0, -1), sizes, strict=True):
        # The last groups are kept for parts that would otherwise stay empty.
        parts = sorted(empty) if left <= len(empty) else range(len(fractions))
        part = max(parts, key=lacking.__getitem__)
        lacking[part] -= size
        empty.discard(part)
        dealt.append(part)
    return dealt


def hold_out(count: int, copies: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to learn from, and those to judge by, int [n] each, ascending.

    Evenly spaced, so that whoever holds out of the same rows holds out the same ones: attackers of
    a layer share sums over them. Each of the images, two at least, has so many rows, one after the
    other; they are on one side, because an image that was learnt from tells nothing.
    """
    held = max(1, min(_MOST_HELD_OUT, round(_HELD_OUT_SHARE * count)))
    is_held = np.zeros(count, bool)
    is_held[(np.arange(held) * count + count // 2) // held] = True
    is_held = np.repeat(is_held, copies)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)

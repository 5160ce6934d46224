"""The secret draw: decided by its seed alone, the same for ever, and fair."""

import hashlib
import hmac
import itertools
import math
import secrets
import unicodedata
from collections import Counter

import pytest
from scipy.stats import chisquare
from support.handmade_plan import SEED

from privynet_jax.selection.secret_draw import (
    Selection,
    class_ids,
    draw_secretly,
    entropy_bits,
    order_secretly,
)


def test_entropy_counts_subsets():
    assert entropy_bits(6, 2) == pytest.approx(math.log2(15))
    assert (entropy_bits(5, 5), entropy_bits(2, 1)) == (0, 1)
    # No more than the seed's own.
    assert entropy_bits(512, 256) == 256


def test_a_draw_is_decided_by_seed_and_candidates_alone():
    candidates = tuple(range(10, 60))
    drawn = draw_secretly(candidates, 7, SEED)
    assert drawn == draw_secretly(candidates[::-1], 7, SEED) == tuple(sorted(set(drawn)))
    assert len(drawn) == 7
    assert set(drawn) <= set(candidates)
    released = Selection("both", candidates, SEED, 0.0).channels(7)
    assert set(released) == set(drawn)
    assert released == order_secretly(drawn, SEED) == order_secretly(drawn[::-1], SEED) != drawn
    # More channels of the same seed contain the fewer.
    assert set(drawn) < set(draw_secretly(candidates, 8, SEED))
    assert draw_secretly(candidates, 50, SEED) == candidates


def test_the_draw_stays_the_same_from_version_to_version():
    """Worked out from the definition: channels in the order of 16 bytes each of SHAKE-256."""
    stream = hashlib.shake_256(bytes.fromhex(SEED)).hexdigest(16 * 5)
    keys = {stream[32 * i : 32 * i + 32]: channel for i, channel in enumerate((2, 3, 5, 7, 11))}
    expected = tuple(sorted(keys[key] for key in sorted(keys)[:3]))
    assert draw_secretly((11, 7, 5, 3, 2), 3, SEED) == expected


def test_the_order_stays_the_same_from_version_to_version():
    """Worked out from the definition: as the draw, with the purpose hashed before the seed."""
    purpose = b"privynet_jax: order of release"
    stream = hashlib.shake_256(purpose + bytes.fromhex(SEED)).hexdigest(16 * 4)
    keys = {stream[32 * i : 32 * i + 32]: channel for i, channel in enumerate((2, 3, 5, 9))}
    expected = tuple(keys[key] for key in sorted(keys))
    assert order_secretly((9, 2, 5, 3), SEED) == expected
    assert Selection("direct", (2, 3, 5, 9), SEED, 0.0).channels(4) == expected


def test_the_ids_of_classes_stay_the_same_from_version_to_version():
    names = ("cat", "dog", "κάτι")
    found = class_ids(names, SEED)
    for name in names:
        content = b"privynet_jax: id of a class\n" + name.encode()
        assert found[name] == hmac.new(bytes.fromhex(SEED), content, hashlib.sha256).hexdigest()
    assert [*found.values()] == sorted(found.values())
    # Further classes change nothing, nor does Unicode's other way to write one.
    other = unicodedata.normalize("NFD", names[2])
    assert class_ids([other, "owl"], SEED)[other] == found[names[2]]


@pytest.mark.parametrize("position", range(64))
def test_every_digit_of_the_seed_counts(position):
    changed = SEED[:position] + ("0" if SEED[position] != "0" else "1") + SEED[position + 1 :]
    candidates = tuple(range(512))
    assert draw_secretly(candidates, 64, changed) != draw_secretly(candidates, 64, SEED)
    assert order_secretly(candidates, changed) != order_secretly(candidates, SEED)


def test_every_subset_is_equally_likely():
    def counts(seeds):
        drawn = Counter(draw_secretly((1, 4, 6, 8, 9), 2, seed) for seed in seeds)
        return [drawn[pair] for pair in itertools.combinations((1, 4, 6, 8, 9), 2)]

    # Fixed seeds that differ in few bits: the outcome cannot change from run to run.
    assert chisquare(counts(f"{number:064x}" for number in range(5000))).pvalue > 0.01
    # Fresh ones: one run in a million fails.
    assert chisquare(counts(secrets.token_hex(32) for _ in range(5000))).pvalue > 1e-6


def test_every_order_of_every_subset_is_equally_likely():
    def counts(seeds):
        selections = (Selection("both", (1, 4, 6, 8), seed, 2.0) for seed in seeds)
        drawn = Counter(selection.channels(3) for selection in selections)
        subsets = itertools.combinations((1, 4, 6, 8), 3)
        found = [drawn[order] for subset in subsets for order in itertools.permutations(subset)]
        assert sum(found) == drawn.total()
        return found

    # Fixed seeds that differ in few bits: the outcome cannot change from run to run.
    assert chisquare(counts(f"{number:064x}" for number in range(5000))).pvalue > 0.01
    # Fresh ones: one run in a million fails.
    assert chisquare(counts(secrets.token_hex(32) for _ in range(5000))).pvalue > 1e-6

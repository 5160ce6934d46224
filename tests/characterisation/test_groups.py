"""The units of a grid's work: which cells they have, and their order."""

import itertools

import pytest

from privynet_jax.characterisation.groups import cell_groups
from privynet_jax.platform.devices import Spread
from privynet_jax.results.cells import grid_cells

LAYERS, DEPTHS, DRAWS = (2, 4, 7, 10, 13), (4, 8, 16, 32), 3


@pytest.fixture
def cells():
    return grid_cells(LAYERS, DEPTHS, DRAWS, seed=0)


def groups_of(cells, per_device):
    # Tests have two devices, so groups have two cells, or eight.
    return cell_groups(cells, 16, Spread(cells_per_device=per_device))


@pytest.mark.parametrize("per_device", [1, 4])
def test_every_cell_is_in_one_group_of_its_layer(cells, per_device):
    groups = groups_of(cells, per_device)
    assert max(len(group.cells) for group in groups) == 2 * per_device
    for group in groups:
        assert {cell.topology.num_layers for cell in group.cells} == {group.num_layers}
    measured = list(itertools.chain.from_iterable(group.cells for group in groups))
    assert len(measured) == len(cells)
    assert set(measured) == set(cells)
    assert len({group.name for group in groups}) == len(groups)


def test_rounds_have_one_draw_of_everything_with_the_ends_first(cells):
    groups = groups_of(cells, per_device=1)
    each = len(LAYERS) * len(DEPTHS) // 2
    assert len(groups) == DRAWS * each
    for draw in range(DRAWS):
        of_round = groups[draw * each : (draw + 1) * each]
        assert {group.round for group in of_round} == {draw}
        assert {cell.draw for group in of_round for cell in group.cells} == {draw}
        # Depths of a layer ascend, and layers come from the ends.
        assert [group.num_layers for group in of_round[::2]] == [2, 13, 4, 10, 7]
        assert [c.topology.depth for g in of_round[:2] for c in g.cells] == list(DEPTHS)


def test_groups_that_reach_into_the_next_round_come_in_the_earlier_one(cells):
    groups = groups_of(cells, per_device=4)
    # Eight of a layer's twelve cells are two draws.
    assert [group.round for group in groups] == [0] * 5 + [2] * 5
    assert {cell.draw for cell in groups[0].cells} == {0, 1}

"""Releases of many become one data set, whatever their order; copies count once; labels agree."""

import dataclasses

import numpy as np
import pytest
from support.small_release import class_ids, random_release

from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.release import release_folder
from privynet_jax.deployment.release.equal_rows import Revocation, row_digests
from privynet_jax.errors import UserError

ONE = random_release(rows=9)
OTHER = random_release(rows=8, seed=1)


def rows_of(data):
    return np.float32(data.representations[:])


def test_one_release_is_what_it_was():
    data = join_releases([ONE])
    assert data.representations is ONE.representations
    np.testing.assert_array_equal(data.labels, ONE.labels)
    assert (data.releases, data.classes, data.plan_id) == ((ONE.id,), ONE.classes, ONE.plan_id)
    assert (len(data), data.owners.tolist(), data.repeated.tolist()) == (9, [0] * 9, [0])


def test_classes_are_matched_by_ids_and_may_be_missing():
    ids = class_ids(4)
    one = dataclasses.replace(ONE, classes=(ids[0], ids[2], ids[3]))
    other = dataclasses.replace(OTHER, classes=ids[1:])
    data = join_releases([one, other])
    assert data.classes == ids
    for release in (one, other):
        mine = data.owners == data.releases.index(release.id)
        expected = [release.classes[label] for label in release.labels]
        assert [data.classes[label] for label in data.labels[mine]] == expected
        np.testing.assert_array_equal(rows_of(data)[mine], release.representations)


@pytest.mark.parametrize("held", [True, False])
def test_the_order_of_releases_changes_nothing(held, monkeypatch):
    monkeypatch.setattr(
        "privynet_jax.deployment.cloud.contributions.HELD_BYTES", release_folder.HELD_BYTES * held
    )
    one, other = join_releases([ONE, OTHER]), join_releases([OTHER, ONE])
    np.testing.assert_array_equal(rows_of(one), rows_of(other))
    for name in ("labels", "owners", "repeated", "moments"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.releases == other.releases == tuple(sorted((ONE.id, OTHER.id)))
    for place, release in enumerate(one.releases):
        (x,) = (each.representations for each in (ONE, OTHER) if each.id == release)
        logs = np.log1p(np.float64(x)).reshape(-1, 3)
        table = np.column_stack([np.ones(len(logs)), logs])
        np.testing.assert_allclose(one.moments[place], table.T @ table, rtol=1e-5)  # float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_were_released_before_count_once(dtype):
    """Stored as float32 by one and as float16 by another, a picture has equal rows as well."""
    ours = np.concatenate([np.float32(OTHER.representations), np.float32(ONE.representations[2:5])])
    later = dataclasses.replace(
        OTHER,
        id="f" * 64,  # the last one
        representations=ours.astype(dtype),
        labels=np.concatenate([OTHER.labels, ONE.labels[2:5]]),
    )
    data = join_releases([later, ONE])
    assert len(data) == 9 + 8
    assert (data.repeated.tolist(), data.contradicting.tolist()) == ([0, 3], [0, 0])
    assert data.representations.dtype == dtype
    expected = np.concatenate([ONE.representations, OTHER.representations])
    np.testing.assert_array_equal(rows_of(data), np.float32(expected))


def test_copies_of_another_class_are_counted():
    both = np.concatenate([OTHER.representations, ONE.representations[:2]])
    labels = np.concatenate([OTHER.labels, np.array([ONE.labels[0], ONE.labels[1] - 1])])
    later = dataclasses.replace(OTHER, id="f" * 64, representations=both, labels=labels)
    data = join_releases([later, ONE])
    assert (data.repeated.tolist(), data.contradicting.tolist()) == ([0, 2], [1, 1])
    # Nobody can say which of the two is right, whatever the releases' ids: neither counts.
    assert len(data) == 9 + 8 - 1
    assert row_digests(ONE.representations[1:2])[0] not in row_digests(rows_of(data))
    again = dataclasses.replace(OTHER, id="e" * 64, representations=both, labels=labels)
    more = join_releases([later, ONE, again])
    assert (len(more), more.contradicting.tolist()) == (9 + 8 - 1, [1, 1, 1])


def revocation(rows, *releases, **changes):
    digests = tuple(sorted(row_digests(rows)))
    return Revocation("1d" * 32, "float16", tuple(release.id for release in releases), digests)


def test_what_is_revoked_is_left_out_and_with_it_classes_that_nothing_is_left_of():
    gone = ONE.representations[ONE.labels == 1]
    data = join_releases([ONE], [revocation(gone, ONE)])
    assert data.classes == (ONE.classes[0], ONE.classes[2])
    assert (len(data), data.revoked.tolist(), data.returned) == (6, [3], ())
    np.testing.assert_array_equal(rows_of(data), np.float32(ONE.representations[ONE.labels != 1]))
    assert [data.classes[n] for n in data.labels] == [ONE.classes[n] for n in ONE.labels if n != 1]
    # Whoever guesses what was revoked cannot tell by the id, without knowing all else.
    assert data.id not in (join_releases([ONE]).id, join_releases([ONE, OTHER]).id)
    again = join_releases([ONE], [revocation(gone[:1], ONE), revocation(gone[1:], ONE)])
    assert again.id == data.id


def test_a_revocation_that_finds_nothing_is_refused():
    """Made of other numbers: of bytes, or by another processor."""
    nothing = revocation(ONE.representations + 1, ONE)
    with pytest.raises(UserError, match=r"holds none of the rows that are revoked of it; have the"):
        join_releases([ONE, OTHER], [nothing])
    assert len(join_releases([OTHER], [nothing])) == 8  # it is no business of that one


def test_what_comes_again_is_left_out_and_named():
    """By somebody else, maybe, who had released it before."""
    rows = np.concatenate([OTHER.representations, ONE.representations[:2]])
    labels = np.concatenate([OTHER.labels, ONE.labels[:2]])
    later = dataclasses.replace(OTHER, representations=rows, labels=labels, name="inbox/b.tar")
    data = join_releases([ONE, later], [revocation(ONE.representations[:2], ONE)])
    assert (len(data), data.revoked.sum(), data.returned) == (9 + 8 - 2, 4, ("inbox/b.tar",))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_no_representation_has_are_refused_by_name(value):
    rows = OTHER.representations.copy()
    rows[5, 1, 2, 0] = value
    broken = dataclasses.replace(OTHER, representations=rows, name="inbox/b.tar")
    with pytest.raises(UserError, match=r"^inbox/b.tar holds a value that no representation has"):
        join_releases([ONE, broken])


def test_a_release_without_labels_is_refused():
    unlabelled = dataclasses.replace(OTHER, labels=None, classes=None)
    with pytest.raises(UserError, match=f"the release {OTHER.id[:8]} has no labels"):
        join_releases([ONE, unlabelled])

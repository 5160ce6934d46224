"""A classifier learns on: the same rows stay held out, what was learnt stays, classes come."""

import dataclasses

import jax
import numpy as np
import pytest
from support.small_release import class_ids, random_release

from privynet_jax.deployment.cloud.classifier import open_classifier
from privynet_jax.deployment.cloud.cloud_training import train_classifier, train_to_folder
from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.cloud.dealing import ClassifierSettings, deal
from privynet_jax.deployment.cloud.held_out import bounds_of, chances_of
from privynet_jax.deployment.cloud.learning_on import begun_from
from privynet_jax.deployment.cloud.withdrawn import check_revocations, note_revocations
from privynet_jax.deployment.release.equal_rows import Revocation
from privynet_jax.errors import UserError
from privynet_jax.training.checkpoints import by_path
from privynet_jax.training.tasks import Schedule, cloud_task

QUICK = ClassifierSettings(Schedule(6, 8), width=4, validation_fraction=0.25, patience=30)
ONE, LATER = random_release(rows=60), random_release(rows=80, classes=4, seed=1)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "classifier"
    train_to_folder(join_releases([ONE]), QUICK, folder)
    return open_classifier(folder)


def known(data, rows):
    return {data.digests[row] for row in rows}


def test_nothing_that_was_learnt_is_held_out(start):
    before, data = join_releases([ONE]), join_releases([ONE, LATER])
    first, both = deal(before, QUICK), deal(data, QUICK, start)
    learnt, held = known(before, first.training), known(before, first.validation)
    assert held <= known(data, both.validation)
    assert not learnt & known(data, both.validation)
    assert {*both.training, *both.validation} == {*range(140)}
    # Of the later release about as many as before, of its new class what the settings say.
    later = np.isin(data.owners, data.releases.index(LATER.id))[both.validation]
    new = data.labels[both.validation] == 3
    assert np.sum(new) == 5
    assert 6 <= np.sum(later & ~new) <= 25  # 15 of 60, and four standard deviations


def test_classes_that_come_and_go(tmp_path):
    """Three trainings: the second has no row of a class, the first one row of another."""
    lone, few = np.flatnonzero(ONE.labels == 2)[1:], LATER.labels < 2
    x, labels = (np.delete(each, lone, 0) for each in (ONE.representations, ONE.labels))
    first = dataclasses.replace(ONE, representations=x, labels=labels)
    x, labels = LATER.representations[few], LATER.labels[few]
    second = dataclasses.replace(LATER, representations=x, labels=labels, classes=class_ids(2))
    learnt, earlier = set(), None
    for number, releases in enumerate(([first], [second], [first, LATER])):
        data = join_releases(releases)
        folder = tmp_path / str(number)
        train_to_folder(data, QUICK, folder, start=earlier)
        wide = data.with_classes(earlier.classes) if earlier else data
        dealt = deal(wide, QUICK, earlier)
        assert not learnt & known(data, dealt.validation)
        learnt |= known(data, dealt.training)
        earlier = open_classifier(folder)
        assert set(class_ids(3)) <= {*earlier.classes}
    assert earlier.classes == class_ids(4)


def test_it_begins_where_the_earlier_one_stands(start):
    settings = dataclasses.replace(QUICK, schedule=Schedule(6, 8, 1e-9))
    data = join_releases([ONE])
    held_out = deal(data, settings, start).validation
    right = start.probabilities(data.representations[held_out]).argmax(axis=1)
    accuracy = (right == data.labels[held_out]).mean()
    trained = train_classifier(data, settings, start)
    assert trained.history[0].validation_accuracy == pytest.approx(accuracy)
    assert trained.start == start.id
    assert train_classifier(data, settings).history[0].validation_loss != pytest.approx(
        trained.history[0].validation_loss
    )


def test_classes_keep_what_was_learnt_of_them_and_new_ones_begin_anew(start):
    ids = class_ids(5)
    data = join_releases([dataclasses.replace(LATER, classes=(ids[0], ids[2], ids[3], ids[4]))])
    task = cloud_task(deal(data, QUICK).network)
    key, x = jax.random.key(3), np.float32(data.representations[:2])
    found = by_path(begun_from(task, start, data.classes).init(key, x))
    fresh = by_path(task.init(key, x))
    for name, array in found.items():
        if not name.startswith("params/Dense_0"):
            np.testing.assert_array_equal(array, start.params[name])
            continue
        np.testing.assert_array_equal(array[..., :2], start.params[name][..., [0, 2]])
        np.testing.assert_array_equal(array[..., 2:], fresh[name][..., 2:])


def test_a_folder_belongs_to_its_start(start, tmp_path):
    data = join_releases([ONE, LATER])
    assert train_to_folder(data, QUICK, tmp_path / "new", start=start).start == start.id
    assert train_to_folder(data, QUICK, tmp_path / "new", start=start) is None
    with pytest.raises(UserError, match=f"start was '{start.id}' and is now ''"):
        train_to_folder(data, QUICK, tmp_path / "new")


def test_what_was_withdrawn_is_not_learnt_on_from(tmp_path):
    one, other = (Revocation("1d" * 32, "float16", (f"0{n}" * 32,), ("0b" * 32,)) for n in "ab")
    folder = tmp_path / "classifier"
    check_revocations(folder, [])
    with pytest.raises(UserError, match=r"may have learnt what 1 of 1 .* train anew"):
        check_revocations(folder, [one])
    note_revocations(folder, [one])
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.revoked.json"]
    check_revocations(folder, [one, one])
    with pytest.raises(UserError, match=r"may have learnt what 1 of 2 revocations withdraw"):
        check_revocations(folder, [one, other])
    with pytest.raises(UserError, match=r"without what 1 further revocations .* give them as --re"):
        check_revocations(folder, [])


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({}, {"seed": 5}, "seed is 5, and was 0 of the classifier to start from; give --seed=0"),
        ({}, {"width": 8}, "width is 8, and was 4"),
        ({}, {"validation_fraction": 0.5}, "validation_fraction is 0.5, and was 0.25"),
        ({"plan_id": "2e" * 32}, {}, "the classifier to start from is of another plan than"),
        (
            {"representations": np.ones((60, 2, 2, 3), np.float16)},
            {},
            "the releases: representations of 2 x 2 x 3 do not fit",
        ),
    ],
    ids=str,
)
def test_what_cannot_learn_on_is_one_line(start, tmp_path, changes, settings, message):
    data = dataclasses.replace(join_releases([ONE]), **changes)
    with pytest.raises(UserError, match=rf"^[^\n]*{message}[^\n]*$"):
        train_to_folder(data, dataclasses.replace(QUICK, **settings), tmp_path / "new", start=start)
    assert not list(tmp_path.iterdir())


def test_bounds_are_short_and_say_nothing_of_single_rows():
    digests = [f"{number:064x}" for number in range(2000)]
    chances, labels = chances_of(digests, seed=3), np.repeat([0, 1, 3], [10, 1, 1989])
    bounds = bounds_of(chances, labels, 4, 0.1)
    held = chances < bounds[labels]
    assert [np.sum(held[labels == label]) for label in range(4)] == [1, 0, 0, 199]
    assert bounds[2] == 0
    assert 0 < bounds[1] <= min(0.1, chances[10])
    assert len(repr(float(bounds[3]))) <= 7
    assert len(repr(float(bounds[0]))) <= 5
    # Uniform, as far as a test of Kolmogorov and Smirnov sees at 0.1 %.
    gaps = np.abs(np.sort(chances) - (np.arange(2000) + 0.5) / 2000)
    assert gaps.max() < 1.95 / np.sqrt(2000)
    assert not np.array_equal(chances, chances_of(digests, seed=4))
    # Equal rows are on one side, and a class of nothing else on that of what is learnt.
    twice = chances_of([*digests[:4], *digests[:4], *4 * digests[5:6]], seed=3)
    labels = np.repeat([0, 1], [8, 4])
    bounds = bounds_of(twice, labels, 2, 0.1)
    assert not (twice[8:] < bounds[1]).any()
    assert np.sum(twice[:8] < bounds[0]) == 2

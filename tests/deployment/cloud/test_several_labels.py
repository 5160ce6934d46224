"""Several labels for each picture, from a table beside them to predictions."""

import csv
import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from support.handmade_package import CLASS_IDS, fill, handmade_package
from support.handmade_release import find
from support.small_release import SmallRelease, class_ids, id_of

from privynet_jax.deployment.cloud.classifier import open_classifier
from privynet_jax.deployment.cloud.cloud_training import train_classifier, train_to_folder
from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.cloud.contributors import contributors
from privynet_jax.deployment.cloud.dealing import ClassifierSettings, deal, shares_of
from privynet_jax.deployment.cloud.predictions import write_predictions
from privynet_jax.deployment.release.extract_release import write_release
from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.errors import UserError
from privynet_jax.images.label_tables import TABLE
from privynet_jax.results.accuracies import accuracies_of_several
from privynet_jax.training.tasks import Schedule

SETTINGS = ClassifierSettings(Schedule(300, 32), width=8, validation_fraction=0.3, patience=20)
NAMES = ("dog", "bird", "cat")


@pytest.fixture
def pictures(tmp_path):
    """Thirty of noise, in two folders, and a table."""
    folder = tmp_path / "pictures"
    fill(folder, {"here": 12, "there": 18})
    rng, rows = np.random.default_rng(0), {}
    for path in sorted(folder.glob("*/*")):
        rows[path.relative_to(folder).as_posix()] = rng.integers(0, 2, 3).tolist()
    lines = [("picture", *NAMES), *((name, *values) for name, values in rows.items())]
    text = "\n".join(",".join(map(str, line)) for line in lines)
    (folder / TABLE).write_text(text, encoding="utf-8")
    return folder, rows


def test_a_release_has_a_column_for_each_label_and_no_name(tmp_path, pictures):
    folder, rows = pictures
    package, order = handmade_package(), tmp_path / "order.csv"
    write_release(tmp_path / "release", package, find(folder), order_out=order)
    release = open_release(tmp_path / "release")
    assert release.classes == tuple(sorted(CLASS_IDS[name] for name in NAMES))
    assert release.labels.shape == (30, 3)
    names = {class_id: name for name, class_id in CLASS_IDS.items()}
    with order.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line, labels in zip(lines, release.labels.tolist(), strict=True):
        told = dict(zip(NAMES, rows[line["picture"]], strict=True))
        assert labels == [told[names[class_id]] for class_id in release.classes]
    # The same again is the same, and another label is another release.
    assert write_release(tmp_path / "release", package, find(folder), order_out=order).rows == 30
    text = (folder / TABLE).read_text()
    (folder / TABLE).write_text(text[:-1] + str(1 - int(text[-1])))
    with pytest.raises(UserError, match=r"is not of this release|holds a release of other"):
        write_release(tmp_path / "release", package, find(folder))


def made(name="one", rows=200, seed=0, classes=(0, 1, 2)):
    """Rows whose three channels are strong where a label is there; and the true labels."""
    rng = np.random.default_rng(seed)
    labels = np.int32(rng.random((rows, 3)) < (0.5, 0.3, 0.1))
    x = rng.random((rows, 4, 4, 3)) * (0.5 + 2 * labels[:, None, None])
    ids = class_ids(4)
    release = SmallRelease(
        id_of(name), np.float16(x), labels[:, classes], tuple(ids[one] for one in classes)
    )
    return release, labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several") / "classifier"
    train_to_folder(join_releases([made()[0]]), SETTINGS, folder)
    return open_classifier(folder)


def test_each_label_is_learnt_by_itself(trained):
    release, labels = made("new", seed=1)
    found = trained.probabilities(release.representations)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.ptp(found.sum(axis=1)) > 0.5  # no probabilities of one choice
    expected = [average_precision_score(labels[:, n], found[:, n]) for n in range(3)]
    assert min(expected) > 0.9
    told = accuracies_of_several(found, labels, 0.5)
    assert told["average_precision"] == pytest.approx(np.mean(expected))
    assert told["commonest_class_share"] == pytest.approx(
        np.mean([max(column.mean(), 1 - column.mean()) for column in labels.T])
    )
    assert trained.several
    assert trained.average_precision > 0.9
    assert trained.best.validation_loss == min(now.validation_loss for now in trained.history)
    held_out = deal(join_releases([made()[0]]), SETTINGS).validation
    assert len(held_out) == 60
    assert len({*trained.held_out}) == 1


def test_shares_of_labels_are_of_those_that_were_looked_for():
    labels = np.array([[1, -1], [0, -1], [0, 1], [0, 1]])
    assert shares_of(labels) == pytest.approx((2 / 6, 3 / 4))


def test_balanced_training_cares_for_a_rare_label():
    """It tells so little that always saying no is mostly right."""
    release, labels = made(rows=600)
    x = np.random.default_rng(5).random((600, 4, 4, 3)) + 0.12 * labels[:, None, None]
    data = join_releases([dataclasses.replace(release, representations=np.float16(x))])
    usual, balanced = (
        train_classifier(data, dataclasses.replace(SETTINGS, balanced=on)) for on in (False, True)
    )
    assert balanced.balanced_accuracy > usual.balanced_accuracy + 0.05
    assert balanced.average_precision > 0.5


def test_contributors_may_look_for_some_labels_alone(tmp_path):
    """What nobody looked for is no 0."""
    one, _ = made("one", classes=(0, 1), seed=2)
    other, truth = made("other", classes=(0, 2), seed=3)
    data = join_releases([one, other])
    assert data.classes == class_ids(3)
    assert {*data.labels[:, 0].tolist()} == {0, 1}
    for column, release in ((1, one), (2, other)):
        mine = data.owners == data.releases.index(release.id)
        assert (data.labels[~mine, column] == -1).all()
        assert (data.labels[mine, column] >= 0).all()
    classifier = train_to_folder(data, SETTINGS, tmp_path / "classifier")
    found = classifier.probabilities(other.representations)
    # The second label was learnt of the first contributor alone.
    assert average_precision_score(truth[:, 1], found[:, 1]) > 0.8
    told = contributors(data, np.arange(len(data)), np.linspace(0, 1, len(data)))
    assert [one.classes for one in told] == [2, 2]
    # Whose labels are harder is named by nobody.
    assert [round(one.accuracy, 2) for one in told] == [0.25, 0.75]
    assert not any(each.strange for each in told)


def test_copies_count_once_unless_their_labels_contradict():
    one, _ = made("one", rows=20)
    same, _ = made("same", rows=20, classes=(0, 2))  # of the same rows
    labels = same.labels.copy()
    labels[3, 0] = 1 - labels[3, 0]
    data = join_releases([one, dataclasses.replace(same, labels=labels)])
    assert len(data) == 19
    assert data.contradicting.tolist() == [1, 1]
    assert data.repeated.sum() == 20
    # What either of them knows is known.
    for releases in ([one, same], [same, dataclasses.replace(one, id="ff" * 32)]):
        np.testing.assert_array_equal(join_releases(releases).labels, one.labels)
    others = dataclasses.replace(one, labels=1 - one.labels)
    assert join_releases([one]).id != join_releases([others]).id


def test_the_table_of_predictions_names_all_that_are_likely(tmp_path):
    found = np.float32([[0.9, 0.5, 0.1], [0.2, 0.3, 0.4]])
    rows = [([("a.png",), ("b.png",)], found)]
    write_predictions(tmp_path / "p.csv", ("picture",), NAMES, iter(rows), several=True)
    with (tmp_path / "p.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["classes"] for line in lines] == ["dog; bird", ""]
    assert [float(line["probability_cat"]) for line in lines] == pytest.approx([0.1, 0.4])


REFUSED = {
    "two kinds": (
        lambda one: [one, dataclasses.replace(made("other")[0], labels=np.arange(200) % 3)],
        {},
        "some releases have one class for each picture, others may have several",
    ),
    "nothing to learn": (
        lambda one: [dataclasses.replace(one, labels=np.ones_like(one.labels))],
        {},
        "no label is there in some rows and missing in others",
    ),
    "nothing to judge": (
        lambda one: [
            dataclasses.replace(one, labels=np.int32(np.arange(600).reshape(200, 3) == 0))
        ],
        {"validation_fraction": 0.005},
        "no label is there in some of the 1 rows held out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learnt_is_one_line(tmp_path, case):
    releases, changes, message = REFUSED[case]
    with pytest.raises(UserError, match=rf"^[^\n]*{message}[^\n]*$"):
        train_to_folder(
            join_releases(releases(made()[0])),
            dataclasses.replace(SETTINGS, **changes),
            tmp_path / "new",
        )
    assert not list(tmp_path.iterdir())


def test_it_learns_on_from_one_of_its_kind(trained, tmp_path):
    data = join_releases([made()[0], made("later", seed=5)[0]])
    found = train_to_folder(data, SETTINGS, tmp_path / "new", start=trained)
    assert {*found.held_out} == {*trained.held_out}
    assert found.history[0].validation_loss < 0.3
    single = join_releases([dataclasses.replace(made()[0], labels=np.arange(200) % 3)])
    with pytest.raises(UserError, match="one has one class for each picture and the other"):
        train_to_folder(single, SETTINGS, tmp_path / "other", start=trained)

"""Reading made-up data sets, and every line that a user gets when one cannot be read."""

import errno
import importlib.util
import io
import json
import logging
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support.tiny_dataset import prepare, tiny_builder
from tensorflow_datasets.core.utils import tqdm_utils

from privynet_jax.errors import UserError
from privynet_jax.images.tfds_source import read_dataset


def test_splits_are_read_as_stored(tmp_path):
    prepare(tiny_builder("files_only", {"train": 6, "test": 3}), tmp_path)
    train, test, class_names, _ = read_dataset("files_only", tmp_path)
    assert (len(train), len(test)) == (6, 3)
    assert class_names == ("dark", "grey", "bright")
    assert (train.labels.dtype, sorted(train.labels)) == (np.int32, [0, 0, 1, 1, 2, 2])
    for image, label in zip(train.images, train.labels, strict=True):
        data = image.read_bytes()
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(pixels[:, 1:], np.full((12, 19), 50 * label))


def test_take_keeps_the_order_asked_for(tmp_path):
    prepare(tiny_builder("files_only", {"train": 6}), tmp_path)
    train = read_dataset("files_only", tmp_path).train
    taken = train.take(np.array([4, 1]))
    assert list(taken.images) == [train.images[4], train.images[1]]
    assert list(taken.labels) == [train.labels[4], train.labels[1]]
    assert list(taken.groups) == [4, 1]


@pytest.mark.parametrize(
    ("splits", "hidden", "expected"),
    [
        ({"train": 6, "test": 3, "validation": 5}, [], 3),
        ({"train": 6, "test": 3, "validation": 5}, ["test"], 5),
        ({"train": 6, "validation": 5}, [], 5),
        ({"train": 6, "test": 3}, ["test"], None),
        ({"train": 6}, [], None),
    ],
)
def test_the_first_labelled_split_is_the_test_split(tmp_path, splits, hidden, expected):
    prepare(tiny_builder("files_only", splits, hidden_labels=hidden), tmp_path)
    test = read_dataset("files_only", tmp_path).test
    assert (None if test is None else len(test)) == expected


@pytest.mark.parametrize(
    ("cells", "distinct"),
    [
        (None, 6),
        ((np.int32, lambda index: index // 3), 2),
        # Not whole numbers, or more than one: whatever these mean, they are no groups.
        ((np.float32, lambda index: index // 3), 6),
        ((tfds.features.Text(), lambda index: "one"), 6),
        ((tfds.features.Tensor(shape=(2,), dtype=np.int32), lambda index: np.zeros(2, "i4")), 6),
    ],
)
def test_only_an_integer_named_cell_groups_examples(tmp_path, cells, distinct):
    prepare(tiny_builder("files_only", {"train": 6}, cells=cells), tmp_path)
    groups = read_dataset("files_only", tmp_path).train.groups
    assert groups.dtype == np.int64
    assert len(set(groups)) == distinct


def test_copies_are_one_group_and_those_of_test_pictures_leave_train(tmp_path, caplog):
    # Examples whose numbers differ by 3 are of one label, so alike but for their marks.
    same = {("train", 0): "a", ("test", 0): "a", ("test", 3): "a"}
    same |= {("train", 1): "b", ("train", 4): "b"}

    def marks(split, index):
        return same.get((split, index), f"{split[:2]}{index}").encode()

    builder = tiny_builder("files_only", {"train": 9, "test": 6}, marks=marks)
    prepare(builder, tmp_path)
    train, test, _, _ = read_dataset("files_only", tmp_path)
    assert "left out 1 pictures of train that are copies of test pictures: train" in caplog.text
    assert sorted(np.unique(train.groups, return_counts=True)[1]) == [1] * 6 + [2]
    assert sorted(np.unique(test.groups, return_counts=True)[1]) == [1] * 4 + [2]
    content = [{image.read_bytes() for image in split.images} for split in (train, test)]
    assert not content[0] & content[1]
    whole = read_dataset("files_only", tmp_path, in_parts=False)
    assert len(np.unique(whole.train.groups)) == 9


def test_a_data_set_without_train_split_is_refused(tmp_path):
    prepare(tiny_builder("files_only", {"test": 6}), tmp_path)
    with pytest.raises(UserError, match="files_only has no split train; it has test"):
        read_dataset("files_only", tmp_path)


@pytest.mark.parametrize("shown", [False, True])
def test_the_users_progress_bars_and_logging_are_left_as_they_were(tmp_path, monkeypatch, shown):
    prepare(tiny_builder("files_only", {"train": 6}), tmp_path)
    monkeypatch.setattr(tqdm_utils, "_active", shown)
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    read_dataset("files_only", tmp_path)
    with pytest.raises(UserError):
        read_dataset("no_such_data_set", tmp_path)
    assert tqdm_utils._active is shown
    assert logging.root.manager.disable == logging.INFO


def test_unknown_data_set_gets_the_closest_names(tmp_path):
    with pytest.raises(UserError, match=r"'cifar11'.*cifar10.*allowed are") as caught:
        read_dataset("cifar11", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "../x", "cifar10:9.9.9", "cifar10/no_such_config"])
def test_bad_names_are_user_errors(tmp_path, name):
    with pytest.raises(UserError, match="cannot open the data set"):
        read_dataset(name, tmp_path)


def test_preparing_a_tfds_set_without_tensorflow_says_so_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"preparing cifar10 needs TensorFlow: pip install"):
        read_dataset("cifar10", tmp_path)


def test_a_registered_set_that_needs_tensorflow_says_so(tmp_path, monkeypatch):
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed, so preparing works")
    made = tiny_builder("mine", {"train": 9}, numpy_images=True)(data_dir=tmp_path)
    monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: made)
    with pytest.raises(UserError, match="preparing mine needs TensorFlow"):
        read_dataset("mine", tmp_path)


def test_a_folder_without_its_prefix_is_told(tmp_path):
    with pytest.raises(UserError, match=f"a folder is given as folder:{tmp_path}"):
        read_dataset(str(tmp_path), tmp_path)


def test_no_network_and_nothing_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"cannot download foolbox==3\.3\.4") as caught:
        read_dataset("photo_patches", tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "photo_patches" / "1.0.0").exists()  # nothing half prepared


@pytest.fixture
def preparing_raises(tmp_path, monkeypatch):
    """Opens a data set whose examples end in an error; returns what reading it raises."""

    def read(error):
        made = tiny_builder("mine", {"train": 9})(data_dir=tmp_path)

        def generate(split):
            raise error
            yield

        monkeypatch.setattr(made, "_generate_examples", generate)
        monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: made)
        with pytest.raises(Exception, match=r".") as caught:
            read_dataset("mine", tmp_path)
        assert not made.data_path.exists()
        return caught.value

    return read


FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        OSError(errno.ENOSPC, FULL, "mine.zip"),
        # array_record on a full disk, word for word but for the path.
        RuntimeError(
            f"write() failed: {FULL}; writing /data/mine; at byte 1048576; Failed to close"
        ),
        RuntimeError("a reason\n" + FULL),
    ],
)
def test_a_full_disk_is_left_to_the_commands_to_explain(tmp_path, preparing_raises, error):
    raised = preparing_raises(error)
    assert type(raised) is OSError
    assert (raised.errno, raised.filename) == (errno.ENOSPC, str(tmp_path))


def test_so_is_a_folder_that_may_not_be_written_to(preparing_raises):
    raised = preparing_raises(OSError(errno.EROFS, READ_ONLY, "/data/mine"))
    assert (type(raised), raised.errno, raised.filename) == (OSError, errno.EROFS, "/data/mine")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        PermissionError(errno.EACCES, "Permission denied"),  # as a firewall answers
        ValueError("no such address\nwith details"),
    ],
)
def test_what_a_network_raises_gets_a_hint_for_networks(preparing_raises, error):
    raised = preparing_raises(error)
    assert type(raised) is UserError
    assert "cannot prepare mine" in str(raised)
    assert "connect to the network" in str(raised)
    assert "\n" not in str(raised)


def test_other_file_formats_are_refused(tmp_path):
    builder = prepare(tiny_builder("files_only", {"train": 9}), tmp_path)
    info = builder.data_path / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="as tfrecord; expected array_record"):
        read_dataset("files_only", tmp_path)


def test_truncated_records_are_user_errors(tmp_path):
    builder = prepare(tiny_builder("files_only", {"train": 9}), tmp_path)
    (records,) = builder.data_path.glob("*train.array_record*")
    records.write_bytes(records.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot read the split train"):
        read_dataset("files_only", tmp_path)

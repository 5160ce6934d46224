"""A classifier on disk comes back as it was, or ends in one line; its probabilities are right."""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import safetensors.numpy
import scipy.special
from support.handmade_classifier import handmade_classifier
from support.small_release import class_ids

from privynet_jax.deployment.cloud.classifier import (
    Classifier,
    Validation,
    is_classifier,
    open_classifier,
    save_classifier,
)
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sealed, sha256_of_files
from privynet_jax.training.models.networks import network_for

SHAPE = (6, 6, 3)
HISTORY = (
    Validation(0, None, 0.25, 1.5),
    Validation(10, 0.1 + 0.2, 1 / 3, 1.25),
    Validation(15, 0.2, 1 / 3, 1.25),
    Validation(20, 1e-9, 0.25, 2.0),
)


def made(seed=0):
    return handmade_classifier(SHAPE, seed, history=HISTORY)


@pytest.fixture
def folder(tmp_path):
    save_classifier(tmp_path / "new" / "classifier", made())
    return tmp_path / "new" / "classifier"


def as_tree(params):
    tree = {}
    for name, array in params.items():
        *folders, last = name.split("/")
        functools.reduce(lambda at, one: at.setdefault(one, {}), folders, tree)[last] = array
    return tree


def some_representations(count=7):
    return np.random.default_rng(0).random((count, *SHAPE), np.float32)


def test_what_is_saved_is_opened(folder):
    saved, found = made(), open_classifier(folder)
    for field in dataclasses.fields(Classifier):
        if field.name not in ("params", "network", "id"):
            assert getattr(found, field.name) == getattr(saved, field.name), field.name
    assert found.best == HISTORY[1]  # of equals the first
    assert found.params.keys() == saved.params.keys()
    for name, array in found.params.items():
        np.testing.assert_array_equal(array, saved.params[name])
    x = some_representations()
    np.testing.assert_array_equal(found.probabilities(x), saved.probabilities(x))


def test_what_lies_in_the_folder(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "classifier.json",
        "history.csv",
        "params.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["classifier"]
    content = json.loads((folder / "classifier.json").read_text())
    expected = {"version": 4, "start": None, "plan_id": "1d" * 32, "shape": [6, 6, 3]}
    assert (content["classes"], content["data"]) == ([*class_ids(3)], "b" * 64)
    assert expected.items() <= content.items()
    assert (folder / "history.csv").read_text() == (
        "step,loss,validation_accuracy,validation_loss\n"
        "0,,0.25,1.5\n"
        "10,0.30000000000000004,0.3333333333333333,1.25\n"
        "15,0.2,0.3333333333333333,1.25\n"
        "20,1e-09,0.25,2.0\n"
    )


def test_probabilities_are_the_softmax_of_the_network_s_logits():
    classifier, x = made(), some_representations()
    logits = network_for(SHAPE, 3, width=4).apply(as_tree(classifier.params), x)
    found = classifier.probabilities(x)
    assert (found.shape, found.dtype) == ((7, 3), np.float32)
    # float32, in another order of sums
    np.testing.assert_allclose(found, scipy.special.softmax(logits, axis=-1), atol=1e-6)
    assert classifier.probabilities(x[:0]).shape == (0, 3)


def test_representations_that_are_none():
    classifier, x = made(), some_representations()
    with pytest.raises(UserError, match=r"^representations of 6 x 6 x 4 do not fit .* 6 x 6 x 3"):
        classifier.probabilities(np.zeros((1, 6, 6, 4)))
    for value in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[4, 0, 0, 0] = value
        with pytest.raises(UserError, match="representation 4 holds a value"):
            classifier.probabilities(broken)


def test_labels_of_a_release_are_found_by_the_ids_of_classes():
    known = class_ids(3)
    found = made().labels_of(np.array([0, 1, 1, 2]), [known[2], "ee" * 32, known[0]])
    assert found.tolist() == [2, -1, -1, 0]


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def with_json(change):
    def damage(folder):
        path = folder / "classifier.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def with_tensors(change, **told):
    """Other parameters, or another network that is told, with all checksums in order."""

    def damage(folder):
        path = folder / "params.safetensors"
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path)
        resigned(folder, files=sha256_of_files(folder) | {"classifier.json": None}, **told)

    return damage


def with_header(folder, length, old=b"", new=b""):
    """The file begins with another length, or its header says something else."""
    path = folder / "params.safetensors"
    data = path.read_bytes()
    if length is None:
        end = 8 + int.from_bytes(data[:8], "little")
        header = re.sub(old, new, data[8:end], count=1)
        data = len(header).to_bytes(8, "little") + header + data[end:]
    path.write_bytes((length or data[:8]) + data[8:])
    resigned(folder, files=sha256_of_files(folder) | {"classifier.json": None})


def resigned(folder, **changes):
    """What somebody writes who computes the checksum anew."""
    path = folder / "classifier.json"
    content = json.loads(path.read_text())
    content.pop("sha256")
    content |= changes
    content["files"] = {name: d for name, d in content["files"].items() if d is not None}
    path.write_text(sealed(content))


PARAMS = "params.safetensors"
OTHERS = "its tensors are not those of the network that is described"
DAMAGED = {
    "parameters cut": (lambda folder: cut(folder / PARAMS), "is damaged: expected sha256"),
    "a file missing": (lambda folder: (folder / PARAMS).unlink(), "is incomplete"),
    "history changed": (lambda folder: cut(folder / "history.csv"), "is damaged"),
    "JSON cut": (
        lambda folder: cut(folder / "classifier.json"),
        "json is no description of a classifier",
    ),
    "bounds of other classes": (
        lambda folder: resigned(folder, held_out=[0.1]),
        "held_out is not one number per class",
    ),
    "another accuracy": (
        with_json(lambda content: content.update(balanced_accuracy=1.0)),
        "was changed after it was written",
    ),
    "another version": (
        with_json(lambda content: content.update(version=9)),
        "is of version 9 of the format, expected 4",
    ),
    "a tensor more": (with_tensors(lambda t: t.update(extra=np.ones(1, np.float32))), OTHERS),
    "a tensor of another type": (
        with_tensors(lambda t: t.update({n: a.astype(np.float64) for n, a in t.items()})),
        OTHERS,
    ),
    "no numbers": (
        with_tensors(lambda t: t.update({n: a * np.float32("nan") for n, a in t.items()})),
        r"params\.safetensors: .* holds NaN or infinity; copy it again, or delete",
    ),
    "a header that lies": (
        lambda folder: with_header(folder, (2**60).to_bytes(8, "little")),
        "its header is longer than a classifier's",
    ),
    "places outside": (
        lambda folder: with_header(folder, None, rb'"data_offsets":\[0,', b'"data_offsets":[9e9,'),
        "its tensors do not lie one behind the other",
    ),
    "places in the header": (
        lambda folder: with_header(folder, None, rb'"data_offsets":\[0,', b'"data_offsets":[-8,'),
        "its tensors do not lie one behind the other",
    ),
    "no header": (
        lambda folder: with_header(folder, None, rb"^.*$", b"[]"),
        "is no file of a classifier's parameters: .*; copy it again, or delete",
    ),
    "a number beyond all": (
        lambda folder: resigned(folder, width=10**400),
        "Expected `int` <= 1048575 - at `.*width`; copy",
    ),
    "a share beyond all": (
        lambda folder: resigned(folder, balanced_accuracy=10**400),
        "got a larger number - at `.*balanced_accuracy`; copy",
    ),
    "an entry without a name": (
        lambda folder: resigned(folder, **{"": 1}),
        "'' is unknown or missing; copy",
    ),
    "another width": (with_tensors(dict, width=5), OTHERS),
    "a network larger than all memory": (
        with_tensors(dict, width=2**20 - 1),
        OTHERS,
    ),
    "a shape whose product wraps": (with_tensors(dict, shape=[2**19, 2**19, 2**19]), "too large"),
    "a class twice": (with_tensors(dict, classes=["ab" * 32] * 3), "that do not ascend"),
    "no class": (with_tensors(dict, classes=[]), "that do not ascend"),
    "other files": (
        lambda folder: resigned(folder, files={"../other": "0" * 64}),
        "lists other files than a classifier has",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_ends_in_one_line(folder, case, capfd):
    damage, message = DAMAGED[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        open_classifier(folder)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_what_is_no_classifier(tmp_path):
    with pytest.raises(UserError, match=r"without classifier\.json"):
        open_classifier(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        open_classifier(tmp_path / "none")


def test_nothing_is_written_over(folder):
    before = (folder / "classifier.json").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        save_classifier(folder, made(seed=1))
    assert (folder / "classifier.json").read_bytes() == before
    assert is_classifier(folder)

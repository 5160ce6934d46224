"""The pickle reader: what PyTorch writes is understood, what would run code is refused unrun."""

import collections
import io
import os
import pickle
import pickletools

import pytest
from support.weight_samples import Call, Global, Persistent, pickled

from privynet_jax.backbone.weights.torch_pickle import (
    StorageRecord,
    TensorRecord,
    UnsafePickleError,
    read_pickle,
)

STORAGE = Persistent("storage", Global("torch", "FloatStorage"), "7", "cuda:0", 12)
TENSOR = Call(Global("torch._utils", "_rebuild_tensor_v2"), STORAGE, 2, (2, 3), (1, 2), False, None)
EXPECTED = TensorRecord(StorageRecord("float32", "7", 12), 2, (2, 3), (1, 2))


def read(data):
    return read_pickle(io.BytesIO(data))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_read_as_pickle_itself_reads_them(protocol):
    values = {
        "text": ["", "häuser", "x" * 300],
        "numbers": (0, 1, 255, 256, 65_536, -1, 2**31, 2**80, 0.25),
        "nothing": [None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, []],
        "shared": [shared := (5, 6), shared],
    }
    data = pickle.dumps(values, protocol)
    assert read(data) == values
    assert read(pickletools.optimize(data)) == values


@pytest.mark.parametrize("protocol", [2, 4])
def test_ordered_dictionaries_and_their_attributes(protocol):
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    ordered._metadata = collections.OrderedDict([("", {"version": 1})])
    found = read(pickle.dumps(ordered, protocol))
    assert found == {"b": 1, "a": 2}
    assert list(found) == ["b", "a"]


def test_tensors_and_parameters():
    assert read(pickled(TENSOR)) == EXPECTED
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), TENSOR, True, None)
    assert read(pickled({"w": parameter})) == {"w": EXPECTED}


def test_state_dicts_of_2017_and_python_2():
    old = Call(Global("torch._utils", "_rebuild_tensor"), *TENSOR.arguments[:4])
    data = Call(Global("collections", "OrderedDict"), [["features.0.weight", old]])
    assert read(pickled(data, python2=True)) == {"features.0.weight": EXPECTED}


MARKS = []


class Attack:
    """What runs a function of its choice when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (Attack(exec, f"import {__name__} as t; t.MARKS.append(1)"), "exec"),
        (Attack(os.system, "exit 1"), "system"),
        (Attack(getattr, {}, "clear"), "getattr"),
    ],
    ids=["exec", "system", "getattr"],
)
def test_code_is_refused_by_name_and_never_run(attack, named, protocol):
    with pytest.raises(UnsafePickleError, match=rf"asks for '.* {named}'"):
        read(pickle.dumps(attack, protocol))
    with pytest.raises(UnsafePickleError):
        read(pickle.dumps({"features.0.weight": [attack]}, protocol))
    assert MARKS == []


def test_the_attack_of_these_tests_would_work_elsewhere():
    pickle.loads(pickle.dumps(Attack(exec, f"import {__name__} as t; t.MARKS.append(1)")))
    assert MARKS.pop() == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickled(Call(Global("torch", "FloatStorage"), 3)), "calls 'torch FloatStorage'"),
        (pickled(Global("torch", "load")), "asks for 'torch load'"),
        (pickled(Global("torch._utils", "_rebuild_tensor_v2.__globals__")), "asks for"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02]\x8e\x08\x00\x00\x00\x00\x00\x00\x00bytesare.", "instruction BINBYTES8"),
        (b"\x80\x02}(}2.", "instruction DUP"),
    ],
)
def test_other_names_calls_and_instructions_are_refused(data, message):
    with pytest.raises(UnsafePickleError, match=message):
        read(data)


def nested(depth, inner=b")"):
    return inner + b"\x85" * depth


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}",
        b"\xff\xfe\xfd",
        pickled({"a": 1})[:-4],
        b"\x80\x02t.",  # no mark
        b"\x80\x02h\x05.",  # nothing memorised
        b"\x80\x02X\xff\xff\xff\x7fshort.",  # a text of 2 GB that is not there
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
        b"\x80\x02(K\x01K\x02u.",  # items for no dictionary
        b"\x80\x02}" + nested(15_000) + b"Ns.",  # hashing that key would exhaust the C stack
        b"\x80\x02" + b"N" * 30_000 + b".",
        b"\x80\x02]\x8a\x01\x00b.",  # BUILD on a list
        pickled(Call(Global("torch._utils", "_rebuild_tensor_v2"), "storage", 0, (1,), (1,))),
        pickled(Call(Global("torch._utils", "_rebuild_tensor_v2"), STORAGE, 0, (1,), (1, 1))),
        pickled(Call(Global("torch._utils", "_rebuild_tensor_v2"), STORAGE, -1, (1,), (1,))),
        pickled(Call(Global("torch._utils", "_rebuild_tensor_v2"), STORAGE, 0, (True,), (1,))),
        pickled(Call(Global("torch._utils", "_rebuild_tensor_v2"))),
        pickled(Call(Global("torch._utils", "_rebuild_parameter"), 5, True, None)),
        pickled(Persistent("module", Global("torch", "FloatStorage"), "7", "cpu", 1)),
        pickled(Persistent("storage", "FloatStorage", "7", "cpu", 1)),
        pickled(Persistent("storage", Global("torch", "FloatStorage"), "7", "cpu", 1, (1, 2, 3))),
        pickled(Persistent("storage")),
        pickled(Call(Global("collections", "OrderedDict"), 5)),
    ],
    ids=range(25),
)
def test_damaged_pickles_are_told_apart_from_errors_of_the_reader(data):
    with pytest.raises(ValueError, match=r"\w"):
        read(data)


def test_the_file_is_left_behind_the_pickle():
    file = io.BytesIO(pickled(1) + pickled("two") + b"rest")
    assert [read_pickle(file), read_pickle(file), file.read()] == [1, "two", b"rest"]

"""Random weights of VGGs, and writers of every accepted format that need no other framework.

The writers share no code with the readers: PyTorch's pickles are put together instruction by
instruction, as PyTorch's own files show them (`python -m pickletools`).
"""

import io
import os
import struct
import zipfile

import h5py
import numpy as np
import safetensors.numpy

# (position in torchvision's Sequential, its position with batch normalisation, Keras' name),
# written out by hand from the two projects' model summaries.
CONVOLUTIONS = {
    "conv1_1": (0, 0, "block1_conv1"),
    "conv1_2": (2, 3, "block1_conv2"),
    "conv2_1": (5, 7, "block2_conv1"),
    "conv2_2": (7, 10, "block2_conv2"),
    "conv3_1": (10, 14, "block3_conv1"),
    "conv3_2": (12, 17, "block3_conv2"),
    "conv3_3": (14, 20, "block3_conv3"),
    "conv4_1": (17, 24, "block4_conv1"),
    "conv4_2": (19, 27, "block4_conv2"),
    "conv4_3": (21, 30, "block4_conv3"),
    "conv5_1": (24, 34, "block5_conv1"),
    "conv5_2": (26, 37, "block5_conv2"),
    "conv5_3": (28, 40, "block5_conv3"),
}
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)

# Of the other VGGs, block by block: positions in torchvision's Sequential, without and with norms.
BLOCKS = {
    "vgg11": (
        ((0,), (3,), (6, 8), (11, 13), (16, 18)),
        ((0,), (4,), (8, 11), (15, 18), (22, 25)),
    ),
    "vgg13": (
        ((0, 2), (5, 7), (10, 12), (15, 17), (20, 22)),
        ((0, 3), (7, 10), (14, 17), (21, 24), (28, 31)),
    ),
    "vgg19": (
        ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30, 32, 34)),
        ((0, 3), (7, 10), (14, 17, 20, 23), (27, 30, 33, 36), (40, 43, 46, 49)),
    ),
}
BLOCK_WIDTHS = (64, 128, 256, 512, 512)


def positions(vgg):
    """Layer name -> its position in torchvision's Sequential, and that with norms."""
    if vgg == "vgg16":
        return {name: found[:2] for name, found in CONVOLUTIONS.items()}
    plain, normed = BLOCKS[vgg]
    return {
        f"conv{block + 1}_{index + 1}": (plain[block][index], normed[block][index])
        for block in range(5)
        for index in range(len(plain[block]))
    }


def random_layers(seed=0, vgg="vgg16"):
    """Layer name -> (HWIO kernel, bias), scaled so that activations keep their size."""
    rng = np.random.default_rng(seed)
    layers = {}
    widths = [3, *(BLOCK_WIDTHS[int(name[4]) - 1] for name in positions(vgg))]
    for name, fan_in, width in zip(positions(vgg), widths[:-1], widths[1:], strict=True):
        kernel = rng.standard_normal((3, 3, fan_in, width), np.float32)
        bias = rng.standard_normal(width, np.float32)
        layers[name] = (kernel * np.float32(np.sqrt(2 / 9 / fan_in)), bias * np.float32(0.1))
    return layers


def constant_layers(value=0.01):
    """The same shapes with one number everywhere, taking no memory and next to no disk space."""
    shapes = zip(CONVOLUTIONS, WIDTHS[:-1], WIDTHS[1:], strict=True)
    number = np.float32(value)
    return {
        name: (np.broadcast_to(number, (3, 3, fan_in, width)), np.broadcast_to(number, (width,)))
        for name, fan_in, width in shapes
    }


def torchvision_tensors(layers, vgg="vgg16"):
    tensors = {}
    for name, (kernel, bias) in layers.items():
        prefix = f"features.{positions(vgg)[name][0]}"
        tensors[f"{prefix}.weight"] = kernel.transpose(3, 2, 0, 1)
        tensors[f"{prefix}.bias"] = bias
    return tensors


def torchvision_bn_tensors(layers, seed=1, vgg="vgg16"):
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (kernel, bias) in layers.items():
        position, width = positions(vgg)[name][1], len(bias)
        tensors[f"features.{position}.weight"] = kernel.transpose(3, 2, 0, 1)
        tensors[f"features.{position}.bias"] = bias
        norm = {
            "weight": rng.uniform(0.5, 1.5, width),
            "bias": rng.normal(0, 0.1, width),
            "running_mean": rng.normal(0, 0.1, width),
            "running_var": rng.uniform(0.5, 1.5, width),
        }
        for kind, values in norm.items():
            tensors[f"features.{position + 1}.{kind}"] = values.astype(np.float32)
        tensors[f"features.{position + 1}.num_batches_tracked"] = np.array(7, np.int64)
    return tensors


def keras_tensors(layers, kernel="{0}/{0}_W_1:0", bias="{0}/{0}_b_1:0"):
    tensors = {}
    for name, arrays in layers.items():
        for pattern, array in zip((kernel, bias), arrays, strict=True):
            tensors[pattern.format(CONVOLUTIONS[name][2])] = array
    return tensors


def keras_3_tensors(layers):
    tensors = {}
    for index, (kernel, bias) in enumerate(layers.values()):
        prefix = f"layers/conv2d_{index}/vars" if index else "layers/conv2d/vars"
        tensors[f"{prefix}/0"], tensors[f"{prefix}/1"] = kernel, bias
    return tensors


def write_h5(path, tensors):
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            if tensor.ndim and not any(
                tensor.strides
            ):  # one number everywhere: stored once, as the fill value
                number = tensor.flat[0]
                file.create_dataset(name, tensor.shape, tensor.dtype, fillvalue=number, chunks=True)
            else:
                file[name] = tensor
    return path


def write_keras(path, tensors, **others):
    content = io.BytesIO()
    write_h5(content, tensors)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in others.items():
            archive.writestr(f"{name}.json", text)
        archive.writestr("model.weights.h5", content.getvalue())
    return path


def write_safetensors(path, tensors):
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(arrays, path)
    return path


_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def pickled(value, *, python2=False):
    """One pickle of plain values, of names (`Global`) and of calls."""
    return b"\x80\x02" + _instructions(value, python2) + b"."


class Global:
    """A name that the pickle looks up."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """A call of a Global."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Persistent:
    """A reference to a storage."""

    def __init__(self, *parts):
        self.parts = parts


def _instructions(value, python2):
    def each(values):
        return b"(" + b"".join(_instructions(item, python2) for item in values)

    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(raw)]) + raw
        case str() if python2:
            return b"U" + bytes([len(value)]) + value.encode()
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return each(value) + b"t"
        case list():
            return b"]" + each(value) + b"e"
        case dict():
            return b"}" + each(part for item in value.items() for part in item) + b"u"
        case Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return _instructions(value.function, python2) + each(value.arguments) + b"tR"
        case Persistent():
            return each(value.parts) + b"tQ"
    raise TypeError(type(value))


def _state_dict(tensors, *, legacy, python2=False):
    """What is pickled for a state dict, and each storage's bytes by key."""
    entries, storages = [], {}
    ordered = Global("collections", "OrderedDict")
    for index, (name, tensor) in enumerate(tensors.items()):
        is_constant = not any(tensor.strides)
        # Where PyTorch can share or transpose, it keeps the numbers as they lie; so does this.
        base = tensor.reshape(-1)[:1].copy() if is_constant else np.ascontiguousarray(tensor)
        strides = tensor.strides if is_constant else base.strides
        key = str(94_000_000 + index) if legacy else str(index)
        storages[key] = base
        kind = Global("torch", _STORAGES[tensor.dtype.name])
        parts = ("storage", kind, key, "cpu", base.size, *([None] if legacy else []))
        steps = tuple(step // tensor.itemsize for step in strides)
        arguments = (Persistent(*parts), 0, tensor.shape, steps)
        if python2:
            rebuilt = Call(Global("torch._utils", "_rebuild_tensor"), *arguments)
        else:
            function = Global("torch._utils", "_rebuild_tensor_v2")
            rebuilt = Call(function, *arguments, False, Call(ordered))
        entries.append([name, rebuilt])
    # Python 2 pickled an OrderedDict's items with the call, Python 3 sets them afterwards.
    return (Call(ordered, entries) if python2 else dict(entries)), storages


def in_a_training(state_dict):
    """A state dict as training loops keep it, beside an epoch and an optimiser's own tensors."""
    return {
        "epoch": 3,
        "optimizer": {"state": {0: {"exp_avg": next(iter(state_dict.values()))}}, "lr": [1]},
        "state_dict": {f"module.{name}": tensor for name, tensor in state_dict.items()},
    }


def write_torch_zip(path, tensors, root="archive", wrapped=lambda state_dict: state_dict):
    state_dict, storages = _state_dict(tensors, legacy=False)
    state_dict = wrapped(state_dict)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled(state_dict))
        archive.writestr(f"{root}/byteorder", "little")
        for key, base in storages.items():
            archive.writestr(f"{root}/data/{key}", base.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return path


LEGACY_HEAD = b"".join(
    pickled(part)
    for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
)


def write_torch_legacy(path, tensors, *, python2=False, wrapped=lambda state_dict: state_dict):
    """As PyTorch before 1.6; with `python2`, as torchvision's vgg16-397923af of early 2017."""
    state_dict, storages = _state_dict(tensors, legacy=True, python2=python2)
    keys = sorted(storages, reverse=True)  # the order in the file is that of the list of keys
    with open(path, "wb") as file:
        file.write(LEGACY_HEAD + pickled(wrapped(state_dict), python2=python2))
        file.write(pickled(keys, python2=python2))
        for key in keys:
            file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())
    return path


class Hostile:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)

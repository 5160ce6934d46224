"""Weight files of every accepted format, opened as named tensors that are read only when asked for.

A file's first bytes decide what it is, whatever its suffix says. Nothing that a file contains is
ever run or followed: HDF5 can point to other files (external links and storage, virtual data sets),
Keras' archives hold a description of the model that may carry code, and PyTorch's hold pickles.
Only numbers stored in the file itself are read.

Each format's library is imported when such a file is opened: where weights are of another kind, it
may be absent.

    with open_tensors(Path("model.safetensors")) as tensors:
        tensors["features.0.weight"].shape  # (64, 3, 3, 3), and nothing was read yet
        tensors["features.0.weight"].load()
"""

import contextlib
import io
import itertools
import mmap
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from privynet_jax.backbone.weights.conversion import StoredTensor
from privynet_jax.backbone.weights.torch_files import read_archive, read_legacy
from privynet_jax.errors import UserError
from privynet_jax.platform.files import damaged_if

ALLOWED = "Keras' .h5, .weights.h5 and .keras, PyTorch's .pth, .safetensors"

_Tensors = dict[str, StoredTensor]
_Reader = Callable[[Path, contextlib.ExitStack], _Tensors]

_WRAPPERS = ("module.", "_orig_mod.", "model.")
_KERAS_MEMBER = "model.weights.h5"
# safetensors' names of the types that it shares with NumPy.
_SAFETENSORS_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[_Tensors]:
    """Opens a weight file and hands over its tensors by name; they can be read until it is closed.

    Raises:
        UserError: the file is empty, of no accepted format, damaged, or asks for code or for
            other files. That may show when a tensor is loaded, while the file is open.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise UserError(f"{path} is empty; give a complete weight file")
    kind, read = _recognised(path, start)
    with contextlib.ExitStack() as stack:
        # The formats' libraries raise whatever seems to fit, from KeyError to SystemError. What the
        # caller raises while the file is open is none of it.
        with damaged_if(path, kind, Exception):
            tensors = read(path, stack)
        cut = len(_common_wrapper(tensors))
        yield {name[cut:]: tensor.told_if_damaged(path, kind) for name, tensor in tensors.items()}


def _common_wrapper(names: Collection[str]) -> str:
    """What modules around the network put before all names, such as DataParallel's "module."."""
    wrapper = ""
    for known in itertools.chain.from_iterable([_WRAPPERS] * len(_WRAPPERS)):
        if names and all(name.startswith(wrapper + known) for name in names):
            wrapper += known
    return wrapper


def _recognised(path: Path, start: bytes) -> tuple[str, _Reader]:
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5 file", _hdf5
    if start.startswith(b"PK\x03\x04"):
        return "zip archive", _archive
    if start.startswith(b"\x80"):  # a pickle of protocol 2 or later
        return "PyTorch file", _torch_legacy
    if start[8:9] == b"{":  # eight bytes of length, then JSON
        return "safetensors file", _safetensors
    raise UserError(
        f"{path} begins with {start[:8]!r} and is damaged or no weight file of a known kind; "
        f"allowed: {ALLOWED}"
    )


def _archive(path: Path, stack: contextlib.ExitStack) -> _Tensors:
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = archive.namelist()

    def read(name: str) -> bytes:
        # Compressed members could unfold to any size; Keras and PyTorch store them as they are.
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, as Keras and PyTorch never do")
        return archive.read(name)

    if _KERAS_MEMBER in names:
        return _hdf5(io.BytesIO(read(_KERAS_MEMBER)), stack)
    return read_archive(names, read)


def _torch_legacy(path: Path, stack: contextlib.ExitStack) -> _Tensors:
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return read_legacy(stack.enter_context(content))


def _safetensors(path: Path, stack: contextlib.ExitStack) -> _Tensors:
    import safetensors

    file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
    tensors = {}
    for name in file.keys():  # noqa: SIM118, this is no dictionary
        view = file.get_slice(name)
        dtype = _SAFETENSORS_TYPES.get(view.get_dtype(), view.get_dtype())
        shape = tuple(view.get_shape())
        tensors[name] = StoredTensor(shape, dtype, lambda name=name: file.get_tensor(name))
    return tensors


def _hdf5(source: Path | io.BytesIO, stack: contextlib.ExitStack) -> _Tensors:
    import h5py

    file = stack.enter_context(h5py.File(source, "r"))
    links: list[tuple[str, object]] = []
    # This visits each group once, whatever circles the links make, and follows only hard links.
    file.visititems_links(lambda name, link: links.append((name, link)))
    if elsewhere := [name for name, link in links if not isinstance(link, h5py.HardLink)]:
        raise ValueError(f"it refers to other places at {', '.join(elsewhere)}")
    items = [(name, file[name]) for name, _ in links]
    datasets = [(name, item) for name, item in items if isinstance(item, h5py.Dataset)]
    if outside := [name for name, item in datasets if item.is_virtual or item.external]:
        raise ValueError(f"it keeps {', '.join(outside)} in other files")
    # An empty data set has no shape; -1 fits nothing.
    return {
        name: StoredTensor(item.shape or (-1,), item.dtype.name, lambda item=item: item[()])
        for name, item in datasets
    }


def read_onnx(path: Path) -> _Tensors:
    """Returns an ONNX model's initialisers by name, without running it; UserError: it is none.

    Tensors stored outside the file are left out: the file's checksum says nothing about them.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        model = None
    # Any bytes that happen to parse (an empty file does) make a model without a graph.
    if model is None or not model.HasField("graph"):
        raise UserError(
            f"{path} is not an ONNX model; allowed is an .onnx file holding VGG16; check the path"
        )
    return {
        tensor.name: StoredTensor.of(onnx.numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL
    }

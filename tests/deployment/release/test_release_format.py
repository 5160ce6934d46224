"""The format's page, implemented again without NumPy or this library: read, and written."""

import hashlib
import json
import math
import re
import struct

import numpy as np
import pytest
from support.handmade_package import fill, handmade_package
from support.handmade_release import ROWS, write

from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.platform.rows.coding import peaks_of

TYPES = {"float32": ("<f4", "f"), "float16": ("<f2", "e"), "uint8": ("|u1", "B")}


def digest_of(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_array(folder, name, identity, code):
    """Shape and numbers of a file, by the page."""
    data = (folder / name).read_bytes()
    content, digest = data[:-32], data[-32:]
    assert hashlib.sha256(f"{identity}\n{name}\n".encode() + content).digest() == digest
    assert content[:8] == b"\x93NUMPY\x01\x00"
    start = 10 + struct.unpack("<H", content[8:10])[0]
    assert start % 64 == 0
    header = content[10:start].decode()
    shape = tuple(map(int, re.findall(r"\d+", header.partition("(")[2])))
    return header, shape, struct.unpack(f"<{math.prod(shape)}{code}", content[start:])


def written_array(folder, name, identity, descr, shape, code, numbers):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    content += struct.pack(f"<{len(numbers)}{code}", *numbers)
    digest = hashlib.sha256(f"{identity}\n{name}\n".encode() + content).digest()
    (folder / name).write_bytes(content + digest)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_written_is_read_by_the_page(tmp_path, dtype):
    fill(tmp_path / "photos", {"bird": 5, "cat": 9, "dog": 8})
    package = handmade_package()
    write(package, tmp_path / "photos", tmp_path / "out", dtype=dtype)
    folder = tmp_path / "out"
    told = json.loads((folder / "release.json").read_text(encoding="utf-8"))
    assert told.pop("sha256") == digest_of(told)
    assert (told["version"], told["rows"], told["dtype"]) == (4, ROWS, dtype)
    descr, code = TYPES[dtype]
    name = "representations-00000.npy"
    header, shape, numbers = read_array(folder, name, told["id"], code)
    assert f"'descr': '{descr}'" in header
    assert shape == (ROWS, *told["shape"])
    if dtype == "uint8":
        depth = told["shape"][-1]
        peaks = [told["peaks"][place % depth] for place in range(len(numbers))]
        pairs = zip(numbers, peaks, strict=True)
        numbers = [(1 + peak) ** (byte / 254) - 1 for byte, peak in pairs]
    release = open_release(folder)
    # What is decoded of bytes is float16.
    found = np.float32(release.representations[:]).reshape(-1)
    np.testing.assert_allclose(found, numbers, rtol=2**-10 if dtype == "uint8" else 0, atol=1e-7)
    _, shape, labels = read_array(folder, "labels.npy", told["id"], "i")
    assert shape == (ROWS,)
    assert release.labels.tolist() == list(labels)
    assert {path.name for path in folder.iterdir()} == {"release.json", "labels.npy", name}
    ends = {one: (folder / one).read_bytes()[-32:].hex() for one in ("labels.npy", name)}
    assert told["digests"] == ends


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_written_by_the_page_is_read(tmp_path, dtype):
    descr, code = TYPES[dtype]
    folder, identity, shape = tmp_path / "r", "ab" * 32, (2, 2, 2)
    folder.mkdir()
    numbers = [n % 250 for n in range(5 * 8)] if dtype == "uint8" else [n / 8 for n in range(5 * 8)]
    for index, rows in enumerate((4, 1)):
        own = numbers[32 * index : 32 * index + 8 * rows]
        name = f"representations-{index:05d}.npy"
        written_array(folder, name, identity, descr, (rows, *shape), code, own)
    written_array(folder, "labels.npy", identity, "<i4", (5,), "i", [0, 1, 2, 1, 0])
    told = {
        **{"version": 4, "id": identity, "plan_id": "1d" * 32, "rows": 5, "shape": list(shape)},
        "several": False,
        **{"dtype": dtype, "classes": ["0a" * 32, "1b" * 32, "2c" * 32], "rows_per_shard": 4},
        "peaks": peaks_of(np.ones(2)).tolist() if dtype == "uint8" else None,
        "digests": {path.name: path.read_bytes()[-32:].hex() for path in folder.iterdir()},
    }
    sealed = json.dumps({**told, "sha256": digest_of(told)})
    (folder / "release.json").write_text(sealed, encoding="utf-8")
    release = open_release(folder)
    expected = np.reshape(numbers, (5, *shape))
    if dtype == "uint8":
        expected = 17.0 ** (expected / 254) - 1
    np.testing.assert_allclose(release.representations[:], expected, rtol=2**-10)
    assert release.labels.tolist() == [0, 1, 2, 1, 0]

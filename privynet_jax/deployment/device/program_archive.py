"""The program of a package: `program` and all modules that it imports, in one file for Python.

A file that Python runs, and imports from (https://docs.python.org/3/library/zipapp.html), and the
same as a wheel, which pip installs without an index
(https://packaging.python.org/specifications/binary-distribution-format). They hold this library's
own sources and are the same for the same sources.
"""

import ast
import base64
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from privynet_jax.deployment.device import program

_ROOT, _LIBRARY = Path(__file__).parents[3], "privynet_jax"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # what a time says is no affair of whoever gets the file
# What is wrong before anything of the library runs is told in one line, too.
_MAIN = f"""import os, signal, sys

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os._exit(128 + number))
if sys.version_info < (3, 11):
    sys.exit("error: this is Python %d.%d; Python 3.11 or later is needed" % sys.version_info[:2])
try:
    from {program.__name__} import main
except ModuleNotFoundError as error:
    sys.exit("error: there is no %s here; pip install numpy pillow onnxruntime" % error.name)
main()
"""


WHEEL = "privynet_device-0.1.0-py3-none-any.whl"
_DESCRIPTION = WHEEL.removesuffix("-py3-none-any.whl") + ".dist-info"
_METADATA = """Metadata-Version: 2.1
Name: privynet-device
Version: 0.1.0
Summary: What a device does with a package of privynet_jax; not beside privynet_jax itself
License: Apache-2.0
Requires-Python: >=3.11
Requires-Dist: numpy
Requires-Dist: onnxruntime
Requires-Dist: pillow
Provides-Extra: dicom
Requires-Dist: pydicom>=3; extra == "dicom"
Provides-Extra: heif
Requires-Dist: pillow-heif; extra == "heif"
Provides-Extra: trust
Requires-Dist: cryptography>=47; extra == "trust"
"""
_TAG = "Wheel-Version: 1.0\nGenerator: privynet_jax\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_COMMANDS = f"[console_scripts]\nprivynet-device = {program.__name__}:main\n"


def program_archive() -> bytes:
    """Returns the file's content."""
    return _zipped([("__main__.py", _MAIN), *sorted(_sources())])


def program_wheel() -> bytes:
    """Returns the content of the wheel, which is called `WHEEL`."""
    files = [
        *sorted(_sources()),
        (f"{_DESCRIPTION}/METADATA", _METADATA),
        (f"{_DESCRIPTION}/WHEEL", _TAG),
        (f"{_DESCRIPTION}/entry_points.txt", _COMMANDS),
    ]
    lines = [f"{name},sha256={_digest(text)},{len(text.encode())}\n" for name, text in files]
    record = f"{_DESCRIPTION}/RECORD"
    return _zipped([*files, (record, "".join([*lines, f"{record},,\n"]))])


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _zipped(files: Iterable[tuple[str, str]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files:
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _sources() -> Iterator[tuple[str, str]]:
    """Path in the archive and text of each module that is needed, and of the folders above them."""
    waiting, seen = [program.__name__], set()
    while waiting:
        name = waiting.pop()
        path = _ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not path.is_file():
            continue  # known, or a name within a module
        seen.add(name)
        text = path.read_text(encoding="utf-8")
        # What the library shows is made by packages that devices lack.
        text = '"""Of privynet_jax, what devices need."""\n' if name == _LIBRARY else text
        yield path.relative_to(_ROOT).as_posix(), text
        waiting += _imported(text)
        waiting += [name.rpartition(".")[0]] if "." in name else []


def _imported(text: str) -> Iterator[str]:
    """Names of this library's modules that a module imports when it is itself imported."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith(_LIBRARY):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

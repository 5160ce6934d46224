"""What a device does with its package, where Python has NumPy, Pillow and onnxruntime alone.

    python privynet.pyz check
    python privynet.pyz extract --images=folder:photos --out=release
    python privynet.pyz predict --images=folder:photos --classifier=classifier --out=pictures.csv
    python privynet.pyz extract --images=folder:photos --out=later --earlier=release.tar
    python privynet.pyz revoke --images=folder:gone --release=release.tar --out=revocation.json
    python privynet.pyz time
    python privynet.pyz time --out=latency.json

`program_archive` makes that file of this module and what it imports, for every package. The package
is the folder that the file lies in, unless --package says otherwise. `experiments.extract` and
`experiments.predict` call the same functions. No JAX here.
"""

import argparse
import sys
from pathlib import Path

from privynet_jax.deployment.device import device_commands as commands
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.deployment.release.release_inputs import SPLITS
from privynet_jax.errors import UserError
from privynet_jax.platform.ending import ending_in_one_line, fail, print_any_name
from privynet_jax.platform.files import expanded
from privynet_jax.platform.rows.coding import DTYPES

PROGRAM = "privynet.pyz"


def main() -> None:
    """Runs the command that was given; bad input ends in one line and exit status 1."""
    print_any_name()
    given = vars(_parser().parse_args())
    command = given.pop("command")
    with ending_in_one_line("to continue" if command == "extract" else "from the start"):
        print(_COMMANDS[command](**given))


def _check(package: Path) -> str:
    found = open_package(package)
    found.check()
    sides, shape = [found.image_size, found.image_size, 3], list(found.shape)
    return f"The package is whole and works: images {sides} to representations {shape}."


_COMMANDS = {
    "check": _check,
    "extract": commands.extract,
    "predict": commands.predict_pictures,
    "revoke": commands.revoke,
    "time": commands.measure,
}


def _parser() -> argparse.ArgumentParser:
    script = Path(sys.argv[0])
    parser = _Parser(prog=script.name, description="Runs the local NN of a package, on a device.")
    every = parser.add_subparsers(dest="command", required=True, metavar="command")
    check = every.add_parser("check", help="verify all files, and test the network")
    extract = every.add_parser("extract", help="make a release of pictures")
    predict = every.add_parser("predict", help="predict the classes of pictures")
    revoke = every.add_parser("revoke", help="withdraw pictures that were released")
    measure = every.add_parser("time", help="measure milliseconds and memory of one picture")
    # What pip installs lies in no package.
    folder = script.resolve().parent if script.suffix == ".pyz" else Path()
    for one in (check, extract, predict, revoke, measure):
        one.add_argument("--package", type=_path, default=folder, help="folder; this file's own")
    for one in (extract, predict, revoke):
        one.add_argument("--images", required=True, help="folder:PATH, a folder of pictures")
        one.add_argument("--out", type=_path, required=True, help="what to write")
        one.add_argument("--sixteen_bit_max", type=int, default=0, help="white, of 16 bits")
    for one in (extract, predict):
        one.add_argument("--skip_unreadable", action="store_true", help="leave such files out")
    extract.add_argument("--dtype", choices=DTYPES, default="float32", help="how rows are stored")
    extract.add_argument("--nolabelled", dest="labelled", action="store_false", help="no classes")
    extract.add_argument("--split", choices=SPLITS, default="all", help="of folders with splits")
    extract.add_argument("--order_out", type=_path, help="CSV: which picture each row is")
    extract.add_argument("--earlier", type=_paths, default=(), help="releases: nothing twice")
    extract.add_argument("--revoked", type=_paths, default=(), help="files that revoke made")
    revoke.add_argument("--release", dest="releases", type=_paths, required=True, help="of them")
    measure.add_argument("--out", type=_path, help="of a folder for timing: what to write")
    predict.add_argument("--classifier", type=_path, required=True, help="folder, from the cloud")
    return parser


def _path(text: str) -> Path:
    if not text:  # which Path would take for the current folder
        raise argparse.ArgumentTypeError("it names nothing")
    try:
        return expanded("", text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _paths(text: str) -> list[Path]:
    return [_path(one) for one in text.split(",")]


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as all commands do."""

    def error(self, message: str) -> None:
        """Ends the program."""
        fail(f"{message}; see {self.prog} --help")

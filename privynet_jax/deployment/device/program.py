"""What a device does with its package, where Python has NumPy, Pillow and onnxruntime alone.

    python privynet.pyz check --trusted=planner.pub
    python privynet.pyz extract --images=folder:photos --out=release --trusted=planner.pub
    python privynet.pyz predict --images=folder:new --classifier=classifier --out=new.csv --unsigned
    python privynet.pyz extract --images=folder:photos --out=later --earlier=release.tar --unsigned
    python privynet.pyz revoke --images=folder:gone --release=release.tar --out=gone.json --unsigned
    python privynet.pyz keys --out=me
    python privynet.pyz time
    python privynet.pyz time --out=latency.json

`program_archive` makes that file of this module and what it imports, for every package. The package
is the folder that the file lies in, unless --package says otherwise. `experiments.extract` and
`experiments.predict` call the same functions. No JAX here.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from privynet_jax.deployment.device import device_commands, release_commands
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.deployment.device.release_commands import ExtractSettings
from privynet_jax.deployment.release.release_inputs import SPLITS
from privynet_jax.deployment.trust.keys import read_private, read_public
from privynet_jax.deployment.trust.signatures import Trust, read_trust
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading, window_of
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
        if "trusted" in given:
            trusted = given.pop("trusted")
            settings = {"unsigned": given.pop("unsigned", not trusted)}
            if command == "check":  # which says what it found
                settings["otherwise"] = "leave --trusted out"
            given["trust"] = read_trust(trusted, functools.partial(expanded, ""), **settings)
        if "dicom_window" in given:
            window = window_of(given.pop("dicom_window"))
            white = given.pop("sixteen_bit_max")
            given["reading"] = Reading(sixteen_bit_max=white, dicom_window=window)
        for flag, read in {"key": read_private, "encrypt_to": read_public}.items():
            if given.get(flag):
                given[flag] = read(given[flag])
        print(_COMMANDS[command](**given))


def _check(package: Path, trust: Trust) -> str:
    found = open_package(package, trust=trust)
    found.check()
    sides, shape = [found.image_size, found.image_size, 3], list(found.shape)
    whose = "Somebody whom you trust signed it." if trust.keys else "Whose it is, --trusted tells."
    return f"The package is whole and works: images {sides} to representations {shape}. {whose}"


def _extract(package: Path, images: str, out: Path, **settings: Any) -> str:
    return release_commands.extract(package, images, out, ExtractSettings(**settings))


_COMMANDS = {
    "check": _check,
    "extract": _extract,
    "keys": device_commands.keys,
    "predict": device_commands.predict_pictures,
    "revoke": release_commands.revoke,
    "time": device_commands.measure,
}


def _parser() -> argparse.ArgumentParser:
    script = Path(sys.argv[0])
    parser = _Parser(prog=script.name, description="Runs the local NN of a package, on a device.")
    every = parser.add_subparsers(dest="command", required=True, metavar="command")
    check = every.add_parser("check", help="verify all files, and test the network")
    keys = every.add_parser("keys", help="make a pair of keys, to sign with")
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
        one.add_argument("--dicom_window", default="", help="CENTRE,WIDTH, in place of files' own")
    for one in (extract, predict):
        one.add_argument("--skip_unreadable", action="store_true", help="leave such files out")
    for one in (check, extract, predict, revoke):
        one.add_argument("--trusted", type=_names, default=(), help="public keys, of who made it")
    for one in (extract, predict, revoke):
        one.add_argument("--unsigned", action="store_true", help="take what nobody signed, too")
    for one in (extract, revoke):
        one.add_argument("--key", type=_path, help="private key, that signs what is written")
    extract.add_argument("--encrypt_to", type=_path, help="public key of who alone shall read it")
    keys.add_argument("--out", type=_path, help="NAME, for NAME.key and NAME.pub")
    keys.add_argument("--show", type=_path, help="FILE.pub: which numbers it has")
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


def _names(text: str) -> list[str]:
    return [str(_path(one)) if ":" not in one else one for one in text.split(",")]


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as all commands do."""

    def error(self, message: str) -> None:
        """Ends the program."""
        fail(f"{message}; see {self.prog} --help")

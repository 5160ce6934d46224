"""How tests run a command in their own process, and what a refusal must look like.

The fixture `run_command` of `conftest.py` calls `run`; a test file adds its usual arguments.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from absl import app, flags
from absl.testing import flagsaver

from experiments import cli

PROJECT = Path(__file__).parents[2]
# Some commands define flags of others anew, so that one process can import only one of them.
_APART = """
import gc, importlib, json, sys

gc.disable()  # as `experiments` does where it is started by -m
from support import commands

module, before, *calls = json.loads(sys.argv[1])
command = importlib.import_module(f"experiments.{module}")
exec(before)
print(*(commands.run(command, *arguments) for arguments in calls))
"""


class Done(NamedTuple):
    """What a command ended with."""

    status: int
    output: str
    error: str


def run(command: ModuleType, *arguments: object) -> int:
    """Runs a command of `experiments` as if it was typed; returns its exit status."""
    # Whoever first runs a command defines them, and the saver would take them away again.
    app.define_help_flags()
    name = command.__name__.rpartition(".")[2]
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        # JAX has computed here, so its devices are chosen.
        patch.setattr(cli, "use_cpu_cores", lambda *_, **__: None)
        flags.FLAGS.unparse_flags()
        with pytest.raises(SystemExit) as ended:
            cli.run(command.main, continues=True)
    return ended.value.code or 0


def apart(module: str, *calls: Sequence[str], before: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command with each of some arguments, in one process that is not this one.

    Args:
        module: name of the command, which defines flags that other commands define too.
        calls: arguments; the last line of the output has the exit status of each call.
        before: what is executed there first, where `command` is the module.
    """
    path = f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"
    return subprocess.run(
        [sys.executable, "-c", _APART, json.dumps([module, before, *calls])],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def refused_apart(module: str, refusals: Sequence[tuple[Sequence[str], str]]) -> None:
    """Asserts that a command refuses each of some arguments, in one process that is not this one.

    Args:
        module: name of the command, which defines flags that other commands define too.
        refusals: arguments, and a part of the one line that they end in.
    """
    done = apart(module, *(arguments for arguments, _ in refusals))
    assert done.stdout.split() == ["1"] * len(refusals), done.stderr
    for line, (_, expected) in zip(done.stderr.splitlines(), refusals, strict=True):
        assert line.startswith("error: ")
        assert expected in line


def refused(done: tuple[int, str, str], *expected: str, silently: bool = True) -> None:
    """Asserts that a command ended in one line on standard error, status 1, which says all that.

    Args:
        done: status, output and error.
        expected: parts of the line.
        silently: whether nothing may be on standard output.
    """
    status, output, error = done
    assert status == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    for part in expected:
        assert part in error
    assert not (silently and output)


def everything_in(folder: Path) -> dict[Path, int]:
    """Returns path -> time of the last change, of a folder and all in it."""
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}

"""`privynet COMMAND` is the command of that name, with its own flags, help and exit status."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments import program

PROJECT = Path(__file__).parents[2]


def privynet(*arguments):
    code = "from experiments.program import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_lists_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["privynet"])
    program.main()
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]}
    assert {"characterize", "plan", "export_local", "extract", "train_cloud", "audit"} <= listed
    assert not listed & {"cli", "running", "program"}
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"privynet": "experiments.program:main"}


def test_a_command_runs_with_its_flags(tmp_path):
    done = privynet("train", f"--release={tmp_path}", f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {tmp_path} is no release; give the folder that experiments.extract wrote, "
        "its tar, or a folder that holds nothing else\n"
    )


def test_no_such_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["privynet", "trian"])
    with pytest.raises(SystemExit) as raised:
        program.main()
    assert raised.value.code == 1
    told = "error: 'trian' is no command; did you mean train? see privynet --help\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr(sys, "argv", ["privynet", "--workdir=runs"])
    with pytest.raises(SystemExit):
        program.main()
    told = "error: '--workdir=runs' is no command; see privynet --help\n"
    assert capsys.readouterr().err == told

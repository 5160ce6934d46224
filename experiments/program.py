"""`privynet COMMAND`, which is `python -m experiments.COMMAND`.

    privynet plan --workdir=runs/story --sample=folder:pictures --out=plan.json
    privynet plan --help

A command is imported when it is run.
"""

import ast
import difflib
import runpy
import sys
from pathlib import Path

from experiments import begin
from privynet_jax.platform.ending import fail

_SHORT = {"export": "export_local", "train": "train_cloud"}
_NONE = {"__init__", "cli", "running", "program"}


def main() -> None:
    """Runs the command that is named first; its flags follow."""
    name, *flags = sys.argv[1:] or ["--help"]
    commands = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - _NONE)
    if name in ("--help", "-h", "help"):
        print("privynet COMMAND --flag=value ...; privynet COMMAND --help tells the flags.\n")
        width = max(map(len, commands))
        print("\n".join(f"{one:{width}}  {_told(one)}" for one in commands))
        return
    module = _SHORT.get(name, name)
    if module not in commands:
        near = difflib.get_close_matches(name, [*commands, *_SHORT], 1)
        meant = "".join(f"did you mean {one}? " for one in near)
        fail(f"{name!r} is no command; {meant}see privynet --help")
    begin()
    sys.argv = [f"privynet {name}", *flags]
    runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=False)


def _told(command: str) -> str:
    """The first line of what a command says of itself, which is not imported for it."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]

"""What a user meets first: names, what they cost, and examples that name what there is."""

import ast
import builtins
import importlib
import inspect
import pathlib
import subprocess
import sys
import textwrap

import pytest
from test_rooms import LIBRARY, WITHOUT_JAX, modules_in

import privynet_jax

PROJECT = pathlib.Path(__file__).parents[1]
# Refuses what is built on JAX, as a machine without it would.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"jax", "jaxlib", "flax", "optax", "orbax"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.split()


def test_names_are_there_and_documented():
    assert {"characterise", "load_weights", "write_release", "audit_plan"} <= set(dir(privynet_jax))
    for name in privynet_jax.__all__:
        value = getattr(privynet_jax, name)
        assert callable(value) or name.isupper(), name
        assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="stream_pictures"):
        _ = privynet_jax.stream_pictures


def test_importing_the_library_imports_nothing_large():
    heavy = "{'jax', 'numpy', 'flax', 'tensorflow_datasets', 'orbax'}"
    assert run(f"import sys, privynet_jax; print(*({heavy} & set(sys.modules)))") == []


def test_what_needs_no_jax_works_without_it():
    modules = [f"privynet_jax.{name}" for name in modules_in(*WITHOUT_JAX)]
    program = f"""
import importlib, privynet_jax as p
for name in {modules!r}:
    importlib.import_module(name)
topology = p.Topology(4, (3, 17, 90))
print(p.local_cost(topology, image_size=32).macs, p.Limits().statistic)
"""
    macs, statistic = run(BLOCKED + program)
    # Of conv1_1, conv1_2, conv2_1 and three channels of conv2_2 on 32 x 32 pixels, 9 taps each.
    assert int(macs) == 9 * (1024 * (3 * 64 + 64 * 64) + 256 * (64 * 128 + 128 * 3))
    assert statistic == "mean"


def examples(docstring):
    """The indented blocks of a docstring that are Python."""
    for block in (docstring or "").split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines and all(line.startswith("    ") or not line for line in lines):
            try:
                yield ast.parse(textwrap.dedent(block.strip("\n")))
            except SyntaxError:
                continue  # a command, or a table


def defined_anywhere():
    """Name -> modules that define it, of the whole library."""
    found = {}
    for module, tree in LIBRARY.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    return found


DEFINED = defined_anywhere()


def called(name, module):
    """What a name in an example of a module stands for; None where it is a made-up object."""
    if hasattr(module, name):
        return getattr(module, name)
    if name in DEFINED:
        return getattr(importlib.import_module(f"privynet_jax.{DEFINED[name][0]}"), name)
    return getattr(builtins, name, None) or getattr(pathlib, name, None)


def problems(example, module):
    """Calls of an example that name no function, or parameters that it has not."""
    nodes = list(ast.walk(example))
    own = {node.id for node in nodes if isinstance(node, ast.Name) and not _is_read(node)}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Name) or call.func.id in own:
            continue
        function = called(call.func.id, module)
        if function is None:
            # Made up, as `attack` or `local` are: but nothing that looks like a name of ours.
            if "_" in call.func.id or call.func.id[0].isupper():
                yield f"{call.func.id} is nowhere"
            continue
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            continue
        free = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
        given = {keyword.arg for keyword in call.keywords} - {None}
        if given - set(parameters) and not free:
            yield f"{call.func.id} takes no {sorted(given - set(parameters))}"
        needed = [p for p in parameters.values() if p.default is p.empty and p.kind < 2]
        starred = any(isinstance(argument, ast.Starred) for argument in call.args)
        shortened = any(isinstance(a, ast.Constant) and a.value is ... for a in call.args)
        if len(call.args) + len(given) < len(needed) and not (starred or shortened or free):
            yield f"{call.func.id} needs {[p.name for p in needed]}"


def _is_read(name):
    return isinstance(name.ctx, ast.Load)


@pytest.mark.parametrize("package", sorted({name.partition(".")[0] for name in LIBRARY}))
def test_examples_name_what_there_is(package):
    stale = []
    for name in modules_in(package):
        module = importlib.import_module(f"privynet_jax.{name}")
        for example in examples(module.__doc__):
            stale += [f"{name}: {problem}" for problem in problems(example, module)]
    assert not stale, "\n".join(stale)

"""What a user meets first: names, what they cost, and examples that name what there is."""

import ast
import builtins
import contextlib
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import textwrap
import typing

import pytest
from test_rooms import EVERYTHING, LIBRARY, PACKAGES, WITHOUT_JAX, is_in, modules_in

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


def test_what_exported_functions_need_can_be_had():
    """What must be given is of classes that are exported too, or that exported functions give."""
    values = [getattr(privynet_jax, name) for name in privynet_jax.__all__]
    functions = [value for value in values if callable(value) and not inspect.isclass(value)]
    hints = [typing.get_type_hints(function) for function in functions]
    given = {kind for hint in hints for kind in classes_in(hint.get("return"))} | set(
        filter(inspect.isclass, values)
    )
    for function, hint in zip(functions, hints, strict=True):
        for name, parameter in inspect.signature(function).parameters.items():
            must_be_given = parameter.default is parameter.empty
            needed = classes_in(hint[name]) if must_be_given else set()
            needed = {kind for kind in needed if not getattr(kind, "_is_protocol", False)}
            assert needed <= given, f"{function.__name__}({name})"


def classes_in(hint):
    """The library's own classes that a type names."""
    if inspect.isclass(hint) and hint.__module__.startswith("privynet_jax"):
        return {hint}
    return set().union(*map(classes_in, typing.get_args(hint)))


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


def examples(tree):
    """The blocks of a module's docstring that are Python, but for commands, tables and prose."""
    for block in (ast.get_docstring(tree) or "").split("\n\n")[1:]:
        with contextlib.suppress(SyntaxError):
            yield ast.parse(textwrap.dedent(block))


def defined_anywhere():
    """Name -> modules that define it, of the whole library."""
    found = {}
    for module, tree in LIBRARY.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    return found


DEFINED = defined_anywhere()


NOTHING = object()  # what a made-up name stands for


class Instance(typing.NamedTuple):
    """What stands for a value of a class."""

    kind: type

    def has(self, name):
        fields = set().union(*map(inspect.get_annotations, self.kind.__mro__))
        is_there = hasattr(self.kind, name) or name in fields
        return is_there or f"self.{name} = " in inspect.getsource(self.kind)


class Example:
    """An example of a module: what its names stand for, and which of them are not there."""

    def __init__(self, tree, module):
        self.module, self.problems = module, []
        self.made = {n.id: NOTHING for n in ast.walk(tree) if _is_made(n)}
        self.made |= {"pj": privynet_jax}  # as README.md calls it
        for node in (node for statement in tree.body for node in _in_order(statement)):
            if isinstance(node, ast.Call):
                self.check_call(node)
            elif isinstance(node, ast.Attribute):
                self.meaning(node, check=True)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.made[node.targets[0].id] = self.meaning(node.value)

    def meaning(self, node, *, check=False, is_called=False):
        """What an expression stands for: an object of the library, an `Instance` or `NOTHING`."""
        if isinstance(node, ast.Name):
            return self.named(node.id, is_called)
        if isinstance(node, ast.Call):
            return _result_of(self.meaning(node.func, is_called=True))
        if not isinstance(node, ast.Attribute):
            return NOTHING
        owner, name = self.meaning(node.value), node.attr
        kind = owner.kind if isinstance(owner, Instance) else owner
        if owner is not NOTHING and not _has(owner, name):
            if check:
                self.problems.append(f"{ast.unparse(node)} is nowhere")
            return NOTHING
        value = getattr(kind, name, NOTHING)
        is_known = inspect.isroutine(value) or inspect.isclass(value) or inspect.ismodule(value)
        return value if is_known else NOTHING

    def named(self, name, is_called):
        if name in self.made:
            return self.made[name]
        if hasattr(self.module, name):
            return getattr(self.module, name)
        if name in DEFINED and (is_called or name[0].isupper()):
            return getattr(importlib.import_module(f"privynet_jax.{DEFINED[name][0]}"), name)
        return getattr(builtins, name, None) or getattr(pathlib, name, NOTHING)

    def check_call(self, call):
        """Notes a call of nothing, or one that lacks parameters or gives others."""
        function, name = self.meaning(call.func, is_called=True), ast.unparse(call.func)
        if function is NOTHING:
            # Made up, as `attack` or `local` are: but nothing that looks like a name of ours.
            is_ours = isinstance(call.func, ast.Name) and ("_" in name or name[0].isupper())
            if is_ours and name not in self.made:
                self.problems.append(f"{name} is nowhere")
            return
        given = {keyword.arg: ... for keyword in call.keywords}
        shortened = any(isinstance(a, ast.Constant) and a.value is ... for a in call.args)
        if shortened or None in given or any(isinstance(a, ast.Starred) for a in call.args):
            return
        is_called_itself = isinstance(function, Instance)
        function = getattr(function.kind, "__call__", None) if is_called_itself else function  # noqa: B004
        hidden = is_called_itself or self.is_method(call.func, function)
        with contextlib.suppress(ValueError):  # a function that is written in C
            signature = inspect.signature(function)
            try:
                signature.bind(*[...] * (len(call.args) + hidden), **given)
            except TypeError as error:
                self.problems.append(f"{name}: {error}")

    def is_method(self, node, function):
        is_of_value = isinstance(node, ast.Attribute) and inspect.isfunction(function)
        return is_of_value and isinstance(self.meaning(node.value), Instance)


def _is_made(node):
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _in_order(statement):
    """The nodes of a statement, what is inside before what it is inside of."""
    for child in ast.iter_child_nodes(statement):
        yield from _in_order(child)
    yield statement


def _has(owner, name):
    return owner.has(name) if isinstance(owner, Instance) else hasattr(owner, name)


def _result_of(function):
    if inspect.isclass(function):
        return Instance(function)
    try:
        kind = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        return NOTHING
    ours = inspect.isclass(kind) and kind.__module__.startswith("privynet_jax")
    return Instance(kind) if ours else NOTHING


@pytest.mark.parametrize("package", [*PACKAGES, "experiments"])
def test_examples_name_what_there_is(package):
    stale = []
    for name, tree in EVERYTHING.items():
        inside = is_in(name, [package])
        for example in examples(tree) if inside else ():
            prefix = "" if package == "experiments" else "privynet_jax."
            module = importlib.import_module(prefix + name)
            stale += [f"{name}: {problem}" for problem in Example(example, module).problems]
    assert not stale, "\n".join(stale)


def test_the_readme_names_what_there_is():
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) > 2
    for block in blocks:
        assert not Example(ast.parse(block), privynet_jax).problems


def test_stale_examples_are_seen():
    text = (
        "plan = read_plan(Path('p'))\nplan.topology\nplan.topologies\nResultStore.opened('a')\n"
        "made_up_name(1)\nlocal_cost(topology)\nLimits(psnr_db=2, most=1)\nlocal_nn(*both)\n"
    )
    assert Example(ast.parse(text), importlib.import_module("privynet_jax")).problems == [
        "plan.topologies is nowhere",
        "ResultStore.opened is nowhere",
        "made_up_name is nowhere",
        "local_cost: missing a required argument: 'image_size'",
        "Limits: got an unexpected keyword argument 'most'",
    ]

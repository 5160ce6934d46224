"""The rooms' walls: which file may import what, read from the sources without running them."""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

# Rooms that also work, and start at once, where there is no JAX.
WITHOUT_JAX = {
    *(
        "errors",
        "termination",
        "files",
        "shards",
        "risk",
        "topology",
        "cost",
        "results",
        "store",
        "tables",
        "secret_draw",
        "risk_tables",
        "plans",
        "plan_file",
        "options",
        "planner",
        "fisher",
        "explanation",
        *("guarantees", "tradeoff", "kept_rows", "audits", "same_settings"),
    ),
    # Not `weights`: it reads checkpoints, and Orbax is built on JAX.
    *("wheels", "downloads", "stored", "torch_pickle", "torch_files", "keras_files"),
    *(
        "weight_files",
        "weight_layouts",
        "weight_conversion",
        "photo_patches",
        "encoded",
        "folder_source",
        "pictures",
        "tfds_source",
        "partition",
        "data",
        "sample",
        "unlabelled",
        "release_inputs",
    ),
}
ON_DEVICES = {"execution"}
# The way of the data: no room reaches a later one, not even through others.
FLOW = (
    "data",
    "features",
    "extraction",
    "cached_layer",
    "cache",
    "inputs",
    "group",
    "grid",
    *("subsets", "amortised", "scoring", "fine_tuning", "modes"),
    "characterisation",
)
# Rooms that reach none of that way: what they are given are arrays and numbers.
BESIDE_THE_FLOW = {
    "shards",
    "coding",
    "cells",
    "training",
    "batches",
    "execution",
    "mapping",
    "group_checkpoints",
    "termination",
    "models",
    "metrics",
    "processes",
    "results",
    "store",
    "tables",
    "imputation",
    "networks",
    "fisher",
    "defences",
    "channel_privacy",
    *("secret_draw", "plans", "plan_file"),
    # A release is read by those who have no images.
    *("releases", "release_manifest"),
    *("cloud_network", "classifier", "cloud_run", "cloud_training"),
}
# What experiments share; apart from these they do not know of one another.
SHARED_BY_EXPERIMENTS = {
    *("experiments.report_pictures", "experiments.report_tables", "experiments.report_sections"),
    *("experiments.knowledge_cases", "experiments.knowledge_tables"),
    *("experiments.cli", "experiments.plots"),
    *("experiments.defence_plot", "experiments.defence_tables"),
    *("experiments.baselines", "experiments.contenders", "experiments.attackers"),
    *("experiments.timing", "experiments.benchmark_inputs", "experiments.benchmark_parts"),
}
# Package or module -> the only rooms of privynet_jax that may import it.
ONLY_IN = {
    "tensorflow_datasets": {"tfds_source", "photo_patches"},
    "onnx": {"weight_files"},
    "safetensors": {"weight_files", "local_package"},
    "h5py": {"keras_files"},
    "orbax": {"checkpoint", "networks", "group_checkpoints"},
    "etils": {"files", "shards", "cached_layer", "cache", "checkpoint", "networks", "releases"},
    "pickletools": {"torch_pickle"},  # which reads pickles; nothing may run them
    "pickle": set(),
    "urllib": {"downloads"},
    "matplotlib": set(),
    "absl.flags": set(),
    "absl.app": set(),
    "experiments": set(),
}
DEVICE_NAMES = {
    *("jax.pmap", "jax.shard_map", "jax.sharding", "jax.Device"),
    *("jax.devices", "jax.local_devices", "jax.device_count", "jax.local_device_count"),
}


def parse(package):
    """Module name -> syntax tree, of every file of a package."""
    paths = sorted((PROJECT / package).glob("**/*.py"))
    names = [".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in paths]
    trees = [ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths]
    return {name.removesuffix(".__init__"): tree for name, tree in zip(names, trees, strict=True)}


LIBRARY, EXPERIMENTS = parse("privynet_jax"), parse("experiments")
EVERYTHING = LIBRARY | EXPERIMENTS


def nodes(tree, *, inside_functions=True):
    """All nodes of a tree, or those that run when the module is imported."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if inside_functions or not is_function:
            yield from nodes(child, inside_functions=inside_functions)


@functools.cache  # asked for again and again, and trees do not change
def imports(tree, **which):
    """Dotted names of what a module imports; `from a import b` counts as a.b."""
    found = set()
    for node in nodes(tree, **which):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide from these tests"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def reaches(names, package):
    """Whether any of the dotted names is in a package."""
    return any(f"{name}.".startswith(f"{package}.") for name in names)


def modules_among(names, modules):
    """The modules that dotted names stand for: a.b.c is module a.b if that is one."""
    candidates = set(names) | {name.rpartition(".")[0] for name in names}
    return candidates & set(modules)


@functools.cache
def dependencies(module):
    """Modules of the library that a module imports itself; not the package that re-exports them."""
    return modules_among(imports(EVERYTHING[module]), LIBRARY) - {"privynet_jax", module}


def reached_from(module):
    """A module, what it imports, what that imports, and so on."""
    waiting, reached = [module], set()
    while waiting:
        current = waiting.pop()
        reached.add(current)
        waiting += dependencies(current) - reached
    return reached


def device_names(tree):
    """Which of `DEVICE_NAMES` a module mentions as attributes or imports."""
    attributes = {ast.unparse(node) for node in nodes(tree) if isinstance(node, ast.Attribute)}
    return (attributes | imports(tree)) & DEVICE_NAMES


def room(module):
    return module.rpartition(".")[2]


def test_the_tests_see_what_they_forbid():
    tree = ast.parse(
        "import jax.numpy as jnp\n"
        "from jax import pmap\n"
        "try:\n    import tensorflow as tf\n"
        "except ImportError:\n    pass\n"
        "def f():\n    import torch\n    return jax.devices()[0]\n"
    )
    top = {"jax.numpy", "jax.pmap", "tensorflow"}
    assert imports(tree, inside_functions=False) == top
    assert imports(tree) == top | {"torch"}
    assert device_names(tree) == {"jax.pmap", "jax.devices"}
    assert reaches({"jax.numpy"}, "jax")
    assert not reaches({"jaxtyping.Array"}, "jax")
    assert modules_among({"a.b.Name", "a.c", "d"}, {"a.b", "a.c"}) == {"a.b", "a.c"}
    assert {"privynet_jax", "privynet_jax.data", "privynet_jax.vgg"} <= set(LIBRARY)
    # A room that is renamed must not slip out of the tables above.
    named = WITHOUT_JAX | ON_DEVICES | BESIDE_THE_FLOW | set(FLOW)
    assert named <= set(map(room, LIBRARY))
    assert device_names(LIBRARY["privynet_jax.execution"]) >= {"jax.pmap", "jax.local_devices"}


@pytest.mark.parametrize("module", [m for m in LIBRARY if room(m) in WITHOUT_JAX])
def test_rooms_without_jax_do_not_even_reach_it(module):
    for one in reached_from(module):
        for package in ("jax", "flax", "optax"):
            assert not reaches(imports(EVERYTHING[one]), package), f"{one} imports {package}"


@pytest.mark.parametrize("module", EVERYTHING)
@pytest.mark.parametrize("package", ["tensorflow", "torch", "keras"])
def test_no_other_framework_is_imported_with_a_module(module, package):
    assert not reaches(imports(EVERYTHING[module], inside_functions=False), package)


@pytest.mark.parametrize("module", LIBRARY)
@pytest.mark.parametrize("package", ONLY_IN)
def test_what_only_some_rooms_may_import(module, package):
    if room(module) not in ONLY_IN[package]:
        assert not reaches(imports(LIBRARY[module]), package)


@pytest.mark.parametrize("module", EVERYTHING)
def test_only_one_room_knows_of_devices(module):
    if module not in {f"privynet_jax.{name}" for name in ON_DEVICES}:
        assert not device_names(EVERYTHING[module])


@pytest.mark.parametrize("name", [*FLOW, *sorted(BESIDE_THE_FLOW)])
def test_data_flow_one_way(name):
    later = FLOW[FLOW.index(name) + 1 :] if name in FLOW else FLOW
    assert not set(later) & set(map(room, reached_from(f"privynet_jax.{name}")))


@pytest.mark.parametrize("module", EXPERIMENTS)
def test_experiments_do_not_import_one_another(module):
    found = modules_among(imports(EXPERIMENTS[module]), EXPERIMENTS)
    assert found - SHARED_BY_EXPERIMENTS <= {"experiments"}


@pytest.mark.parametrize("module", EXPERIMENTS)
def test_experiments_leave_formats_to_the_library(module):
    for package in ("tensorflow_datasets", "onnx", "h5py", "safetensors", "orbax", "pickle"):
        assert not reaches(imports(EXPERIMENTS[module]), package)


def test_the_device_s_program_needs_jax_and_numpy_alone():
    found = {name.partition(".")[0] for name in imports(LIBRARY["privynet_jax.device_nn"])}
    assert found - sys.stdlib_module_names == {"jax", "numpy"}


def test_no_import_runs_in_a_circle():
    left = {module: dependencies(module) for module in LIBRARY}
    # Takes away, again and again, what imports nothing that is left: a circle would stay.
    while free := {module for module, needed in left.items() if not needed & set(left)}:
        left = {module: needed for module, needed in left.items() if module not in free}
    assert not left


def rooms_in_the_notes():
    """Room -> its line in BUILD_NOTES.md's list, experiments left out."""
    notes = (PROJECT / "BUILD_NOTES.md").read_text(encoding="utf-8")
    table = notes.partition("| room | purpose |")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return {name: line for line, cell in enumerate(cells) for name in re.findall(r"`(\w+)`", cell)}


def test_the_notes_list_every_room_below_those_it_imports():
    lines = rooms_in_the_notes()
    assert set(lines) == {room(module) for module in LIBRARY} - {"", "privynet_jax"}
    for module in set(LIBRARY) - {"privynet_jax"}:
        for imported in dependencies(module):
            assert lines[room(imported)] <= lines[room(module)], (module, imported)

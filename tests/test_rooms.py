"""The house's walls, read from the sources: who may import whom, and who may touch what."""

import ast
import functools
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MOST_MODULES = 12

# Lowest first: a package imports those before it, and none behind it.
PACKAGES = (
    "errors",
    "platform",
    "images",
    "backbone",
    "training",
    "results",
    "estimates",
    "attacks",
    "mechanisms",
    "selection",
    "characterisation",
    "planning",
    "auditing",
    "scheduling",
    "deployment",
)
# What delivers a plan reaches, not even through others, nothing that measures one.
DELIVERY = ("deployment", "planning.plan", "planning.explanation")
MEASURING = (
    *("estimates", "attacks", "mechanisms", "characterisation", "auditing"),
    *("planning.draw_meter", "planning.drawing"),
)
RELEASING = {"mechanisms.on_device"}  # which measures nothing itself
# Works, and starts at once, where there is no JAX.
WITHOUT_JAX = (
    "errors",
    *(
        "platform.digests",
        "platform.documents",
        "platform.files",
        "platform.fetching",
        "platform.resuming",
        "platform.typed_json",
        "platform.ending",
    ),
    "platform.rows.coding",
    "mechanisms.on_device",
    *("platform.progress", "platform.rows.row_views", "platform.rows.shards", "platform.signals"),
    *("deployment.device.program", "deployment.cloud.classifier", "deployment.release"),
    "deployment.trust",
    *("images.decoding", "images.folders", "images.partition", "images.parts", "images.sample"),
    *("images.pixels", "images.photo_patches", "images.picture_cache", "images.tfds_source"),
    *("backbone.backbones", "backbone.topology", "backbone.weights.conversion"),
    *("backbone.weights.families", "backbone.weights.torch_files"),
    "backbone.weights.tensor_files",
    *("results.cell_results", "results.risk_tables", "results.statistics"),
    *("results.summaries", "results.text_tables", "results.work_directory"),
    *("selection.class_spread", "selection.fisher", "selection.secret_draw"),
    *("auditing.findings", "planning.explanation", "planning.options", "planning.plan"),
    *("planning.planner", "planning.promise", "planning.wording"),
    "scheduling",
)
# Package or name -> the only modules of the library that may use it.
ONLY_IN = {
    "tensorflow_datasets": {"images.tfds_source", "images.photo_patches"},
    "onnx": {
        *("backbone.onnx_model", "backbone.weights.tensor_files", "platform.onnx_files.onnx_graph"),
        "deployment.cloud.cloud_graph",
    },
    "onnxruntime": {"platform.onnx_files.onnx_run"},
    "pydicom": {"images.pixels.dicom"},
    "cryptography": {
        "deployment.trust.keys",
        "mechanisms.disguises.aes",
    },  # which the others ask for it
    "safetensors": {"backbone.weights.tensor_files", "deployment.cloud.classifier"},
    "h5py": {"backbone.weights.tensor_files"},
    "ray": {"platform.cluster"},
    "orbax": {"backbone.weights.checkpoint", "training.checkpoints"},
    "pickletools": {"backbone.weights.torch_pickle"},  # reads pickles; nothing may run them
    "pickle": set(),
    # So that another backbone can come without touching another package.
    "privynet_jax.backbone.vgg": {"backbone.split"},
    "privynet_jax.backbone.onnx_model": {
        *("deployment.device.package_export", "deployment.device.timing_kit", "planning.latency"),
    },
    "tqdm": {"platform.progress"},
    "urllib": {"platform.fetching"},
    "matplotlib": set(),
    "vl_convert": set(),
    "absl.flags": set(),
    "absl.app": set(),
    "experiments": set(),
}
# Whoever names devices decides how work is spread.
DEVICE_NAMES = {
    *("jax.pmap", "jax.shard_map", "jax.sharding", "jax.Device"),
    *("jax.devices", "jax.local_devices", "jax.device_count", "jax.local_device_count"),
}
NAMES_DEVICES = {"platform.devices"}
# What takes a gradient, or steps along one, trains: networks in one room, images in one file.
GRADIENTS = {
    *("jax.grad", "jax.value_and_grad", "jax.vjp", "jax.jvp", "jax.linearize"),
    *("jax.jacfwd", "jax.jacrev", "jax.jacobian", "jax.hessian", "optax.apply_updates"),
}
# The others seek images, and gains, or measure how steep a map is: no network learns there.
TAKES_GRADIENTS = {
    *("training.steps", "attacks.matching", "attacks.public.calibration"),
    "mechanisms.information",
}
OTHER_FRAMEWORKS = ("tensorflow", "torch", "keras")
# Written for another framework, and imported inside functions alone.
PEERS = ("experiments.benchmarking.torch_networks", "experiments.benchmarking.torch_peer")
FORMATS = ("tensorflow_datasets", "onnx", "h5py", "safetensors", "orbax", "pickle")


def parse(package):
    """Module name, without the library's own, -> syntax tree."""
    trees = {}
    for path in sorted((PROJECT / package).glob("**/*.py")):
        name = ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
        trees[name.removeprefix("privynet_jax.")] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


LIBRARY = {name: tree for name, tree in parse("privynet_jax").items() if name != "privynet_jax"}
EXPERIMENTS = parse("experiments")
EVERYTHING = LIBRARY | EXPERIMENTS


def nodes(tree, *, inside_functions=True):
    """All nodes of a tree, or those that run when the module is imported."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if inside_functions or not is_function:
            yield from nodes(child, inside_functions=inside_functions)


@functools.cache
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


def is_in(name, places):
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def uses(names, package):
    return any(is_in(name, [package]) for name in names)


@functools.cache
def dependencies(module):
    """Modules of the library that a module imports itself."""
    names = {name.removeprefix("privynet_jax.") for name in imports(EVERYTHING[module])}
    return ((names | {name.rpartition(".")[0] for name in names}) & set(LIBRARY)) - {module}


def reached_from(module):
    """A module, what it imports, what that imports, and so on."""
    waiting, reached = [module], set()
    while waiting:
        current = waiting.pop()
        reached.add(current)
        waiting += dependencies(current) - reached
    return reached


def device_names(tree):
    attributes = {ast.unparse(node) for node in nodes(tree) if isinstance(node, ast.Attribute)}
    return (attributes | imports(tree)) & DEVICE_NAMES


def gradients(tree):
    """Names of derivatives, and calls of an optimiser's `update`."""
    attributes = {ast.unparse(node) for node in nodes(tree) if isinstance(node, ast.Attribute)}
    found = (attributes | imports(tree)) & GRADIENTS
    for node in nodes(tree):
        if isinstance(node, ast.Call) and len(node.args) > 1:  # digests and bars take one
            name = ast.unparse(node.func)
            found |= {name} if name.endswith(".update") and name != "jax.config.update" else set()
    return found


def modules_in(*places):
    return [module for module in LIBRARY if is_in(module, places)]


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
    steps = "optimiser.update(gradients, state)\ndigest.update(b'')\njax.value_and_grad(loss)"
    assert gradients(ast.parse(steps)) == {"optimiser.update", "jax.value_and_grad"}
    assert uses({"jax.numpy"}, "jax")
    assert not uses({"jaxtyping.Array"}, "jax")
    assert dependencies("platform.rows.row_views") == set()
    assert "errors" in dependencies("backbone.topology")
    # What is renamed must not slip out of the tables above.
    named = {
        *DELIVERY,
        *MEASURING,
        *WITHOUT_JAX,
        *NAMES_DEVICES,
        "attacks.matching",
        *set().union(*ONLY_IN.values()),
    }
    assert named <= set(LIBRARY)
    assert {module.partition(".")[0] for module in LIBRARY} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_those_before_them(package):
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    for module in modules_in(package):
        upward = [name for name in dependencies(module) if not is_in(name, allowed)]
        assert not upward, f"{module} imports {upward}"


def test_no_import_runs_in_a_circle():
    left = {module: dependencies(module) for module in LIBRARY}
    # Takes away, again and again, what imports nothing that is left: a circle would stay.
    while free := {module for module, needed in left.items() if not needed & set(left)}:
        left = {module: needed for module, needed in left.items() if module not in free}
    assert not left


def test_delivery_reaches_nothing_that_measures():
    for module in modules_in(*DELIVERY):
        reached = [name for name in reached_from(module) - RELEASING if is_in(name, MEASURING)]
        assert not reached, f"{module} reaches {reached}"


def test_where_there_is_no_jax():
    for module in modules_in(*WITHOUT_JAX):
        for one in reached_from(module):
            for package in ("jax", "flax", "optax"):
                assert not uses(imports(LIBRARY[one]), package), f"{module}: {one} has {package}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_what_only_some_modules_may_import(package):
    users = {module for module in LIBRARY if uses(imports(LIBRARY[module]), package)}
    assert users <= ONLY_IN[package]


def test_only_one_module_names_devices():
    assert {module for module in EVERYTHING if device_names(EVERYTHING[module])} == NAMES_DEVICES


def test_only_the_trainer_takes_gradients_of_networks():
    taking = {module for module in EVERYTHING if gradients(EVERYTHING[module])}
    assert taking == TAKES_GRADIENTS


@pytest.mark.parametrize("package", OTHER_FRAMEWORKS)
def test_no_other_framework_is_imported_with_a_module(package):
    for module in EVERYTHING.keys() - set(PEERS):
        found = imports(EVERYTHING[module], inside_functions=False)
        for forbidden in (package, *PEERS):
            assert not uses(found, forbidden), module


def test_commands_share_only_what_helps_them():
    commands = {f"experiments.{path.stem}" for path in (PROJECT / "experiments").glob("*.py")}
    helpers = ("__init__", "cli", "running", "program")
    commands -= {f"experiments.{name}" for name in helpers}
    for module, tree in EXPERIMENTS.items():
        assert not [name for name in imports(tree) if is_in(name, commands)], module
        for package in FORMATS:
            assert not uses(imports(tree), package), f"{module} imports {package}"


def test_folders_are_small_and_say_what_lives_there():
    for folder in {path.parent for path in (PROJECT / "privynet_jax").glob("**/*.py")}:
        modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(modules) <= MOST_MODULES, f"{folder} has {len(modules)} modules"
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
    basenames = [module.rpartition(".")[2] for module in LIBRARY]
    assert not {name for name in basenames if basenames.count(name) > 1}

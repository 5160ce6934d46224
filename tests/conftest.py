"""Fixtures that more than one test file uses."""

import functools
import gc
import os
import signal
import tempfile
from pathlib import Path

import jax
import pytest
from absl import flags
from support import buckets, commands, small_audit, tiny_runs

from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.run import characterise
from privynet_jax.images import tfds_source
from privynet_jax.images.parts import Parts, load_parts
from privynet_jax.planning.plan import Plan
from privynet_jax.platform.signals import HANDLED

# Two devices, however many cores there are, so that groups of cells really are spread. JAX refuses
# the setting once a computation has chosen the devices; pytest reads this file before any test.
jax.config.update("jax_num_cpu_devices", 2)
# Most tests compile much and compute little. Commands that they start follow the environment.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Fused loops are most of what XLA's CPU backend compiles; one by one, they take half the time. As
# many tests run as there are cores, so a thread for each compiles with less effort in all.
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
# Tests compile the same programs again and again, in this process and in those that they start:
# with a folder of what XLA has made, each is compiled once, however small it is. pytest-xdist's
# workers find the one of the process that started them in the environment.
_COMPILED = tempfile.TemporaryDirectory(prefix="privynet_jax-compiled-")
for _name, _value in {
    "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR", _COMPILED.name),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What modules make when they are imported stays: no search for garbage goes through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that the workers end with short ones, at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="module")
def _optimised_where_asked(request):
    """Modules with `pytestmark = pytest.mark.computes` have their programs compiled as users do."""
    if request.node.get_closest_marker("computes") is None:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def test_data_dir(tmp_path_factory) -> Path:
    """Where data sets and weights are kept; set PRIVYNET_TEST_DATA_DIR to reuse it between runs."""
    kept = os.environ.get("PRIVYNET_TEST_DATA_DIR")
    return Path(kept) if kept else tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session", autouse=True)
def _photographs_are_read_once(test_data_dir):
    """Most runs here read photo_patches, whose files nobody changes; a process keeps them."""
    read, kept = tfds_source.read_dataset, functools.cache(tfds_source.read_dataset)

    def read_or_kept(dataset, data_dir, **options):
        is_kept = (dataset, str(data_dir)) == ("photo_patches", str(test_data_dir))
        return (kept if is_kept else read)(dataset, data_dir, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds_source, "read_dataset", read_or_kept)
        yield


@pytest.fixture(scope="session")
def photo_parts(test_data_dir) -> Parts:
    """The real photo_patches at seed 0."""
    return load_parts("photo_patches", data_dir=test_data_dir)


@pytest.fixture(scope="session")
def small_parts(test_data_dir) -> Parts:
    """A few real images per part, for tests that train; no size is a multiple of another."""
    limits = {"target": 120, "auxiliary": 96, "validation": 40, "test": 50}
    return load_parts("photo_patches", data_dir=test_data_dir, max_images=limits)


@pytest.fixture(scope="session")
def vgg_weights(test_data_dir) -> PretrainedWeights:
    """The real ImageNet VGG16 trunk."""
    return load_weights("embedded", cache_dir=test_data_dir / "weights")


@pytest.fixture(scope="session")
def audited_parts(tmp_path_factory) -> Parts:
    """Pictures to audit `audited_plan` on."""
    data = small_audit.pictures(tmp_path_factory.mktemp("pictures"))
    size, seed = small_audit.IMAGE_SIZE, small_audit.PARTS_SEED
    return load_parts(data, data_dir=None, image_size=size, seed=seed)


@pytest.fixture(scope="session")
def audited_plan(vgg_weights) -> Plan:
    """A small plan; no picture of `audited_parts` was its sample."""
    return small_audit.plan(vgg_weights)


@pytest.fixture
def bucket(tmp_path):
    """A folder gs://.../cache in memory, another one for every test."""
    return buckets.memory_bucket(tmp_path.name)


@pytest.fixture
def run_command(capfd):
    """Runs a command in this process: (its module, arguments) -> exit status, output, error."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}

    def run(command, *arguments):
        return commands.Done(commands.run(command, *arguments), *capfd.readouterr())

    yield run
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["tests"])
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, test_data_dir) -> Config:
    """A finished characterisation of real images, as small as can be; nobody may write into it."""
    load_weights("embedded", cache_dir=test_data_dir / "weights")
    config = tiny_runs.settings(tmp_path_factory.mktemp("tiny_run"), test_data_dir)
    characterise(config)
    return config

"""Plans that nobody measured, for tests of packages; and a process as a device has it."""

import subprocess
import sys

import numpy as np

from privynet_jax.backbone.topology import Topology
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.planning.plan import Expectation, Limits, Plan
from privynet_jax.results.statistics import Interval
from privynet_jax.selection.secret_draw import Selection, entropy_bits

# float32 results of the same sums in another order, relative to the largest value; see test_split.
TOLERANCE = 1e-5

# onnxruntime, and what it declares to need; google is protobuf's.
_ALLOWED = ("onnxruntime", "numpy", "PIL", "flatbuffers", "packaging", "google")

_ALONE = '''
import runpy, sys
allowed = set(sys.stdlib_module_names) | set({allowed!r})

class Only:
    """Finds what the other finders find, of the allowed packages; the others do not exist."""

    finders = tuple(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        # The standard library keeps what it was built with in a module named after the machine.
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        if root in allowed or root.startswith("_sysconfigdata"):
            return next(filter(None, found), None)
        # The program of a package, and its own modules.
        return next((spec for spec in found if spec and ".pyz" in str(spec.origin)), None)

sys.meta_path[:] = [Only()]
for name in ("jax", "flax", "privynet_jax", "safetensors", "absl", "etils", "onnx", "tqdm"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{{name}} can be imported: this process shows nothing")
{body}
'''


def plan(pretrained, topology, image_size, **changes):
    """A plan that draws the channels of a topology, because it has no others to draw from.

    It releases them in its own order, so the plan's topology is the one to compare with.
    """
    depth = topology.depth
    interval = Interval(0.5, 0.4, 0.6)
    channels = tuple(sorted(topology.channels))
    alone = Selection("random", channels, "0f" * 32, entropy_bits(depth, depth))
    selection = changes.get("selection", alone)
    fields = {
        "id": "1d" * 32,
        "topology": Topology(topology.num_layers, selection.channels(depth)),
        "selection": selection,
        "limits": Limits(psnr_db=20.0),
        "expected": Expectation(interval, interval, interval, interval, 0.25),
        "image_size": image_size,
        "class_names": ("cat", "dog", "Bücher"),
        "scales": tuple(np.linspace(0.01, 0.02, depth).tolist()),
        "peaks": tuple(np.linspace(16, 20, depth).tolist()),
        "mechanism": "none",
        "unit": 1.0,
        "epsilon": None,
        "weights": pretrained.source,
        "weights_fingerprint": pretrained.fingerprint,
        "latency_ms": None,
        "latency_on": "",
        "characterised": {"settings": {"seed": 0}},
        "measured": None,
        "promise": None,
        "sample": (),
        "reading": Reading(),
    }
    return Plan(**{**fields, **changes})


def images(count, size, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape
    assert np.asarray(found).dtype == np.float32
    assert np.abs(np.asarray(found) - expected).max() <= tolerance * np.abs(expected).max()


def run_alone(body, *, cwd):
    """Runs Python where onnxruntime, NumPy, Pillow and its own library exist, and nothing else."""
    script = _ALONE.format(allowed=_ALLOWED, body=body)
    command = [sys.executable, "-I", "-c", script]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)

"""What a picture costs a device, on one thread: by onnxruntime, and by JAX beside it."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from experiments.benchmarking.inputs import Row, Setup, random_images
from experiments.benchmarking.timing import Clock, repeated
from privynet_jax import Topology, as_float, local_nn
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import made_up_params
from privynet_jax.platform.devices import Execution, usable_cores


def device(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times the local NN on one image; JAX takes all cores: `taskset -c 0` leaves it one."""
    # Not for the other parts, which machines run that have neither.
    from privynet_jax.backbone.onnx_model import timing_model
    from privynet_jax.platform.onnx_files.onnx_run import IMAGES, OnnxRun

    image = random_images(1, setup.image_size)
    for m in setup.layers:
        topology = Topology(m, range(setup.depth))
        network = OnnxRun(timing_model(topology, setup.image_size), "again", threads=1)
        local = jax.jit(local_nn(made_up_params(VGG16, m), topology))

        def by_jax(local: jax.stages.Wrapped = local) -> None:
            np.asarray(local(as_float(image)))

        by_onnx = functools.partial(network.run, {IMAGES: image})
        works = {"onnxruntime": by_onnx, "jax": by_jax}
        measured = clock.measure(
            {n: (0.0, functools.partial(repeated, w)) for n, w in works.items()}
        )
        yield {
            "layers": m,
            "depth": setup.depth,
            "cores_of_jax": usable_cores(),
            **{f"{name}_ms": 1000 * each["seconds"] for name, each in measured.items()},
            "jax_per_onnxruntime": measured["jax"]["of_first"],
        }

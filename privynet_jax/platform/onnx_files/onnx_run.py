"""ONNX files run by onnxruntime, on the processor: the one place that knows it.

    network = OnnxRun(Path("local_nn.onnx"), "export it again")
    network.run({"images": images})  # its first output
    network.milliseconds({"images": images[:1]})  # how long that takes

No JAX here.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.errors import UserError

# Else it notes how many pictures were looked at and when, by which program, for its makers.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

onnxruntime.disable_telemetry_events()  # where somebody imported it before

# What the files of this project call their inputs and outputs.
IMAGES, REPRESENTATIONS, LOGITS = "images", "representations", "logits"
_LONGEST = 300  # of what it says
_ERRORS_ALONE = 3  # of onnxruntime's degrees of severity
_WARM_UP, _LEAST_REPEATS, _SECONDS = 3, 10, 0.5
_CPUINFO = Path("/proc/cpuinfo")


class OnnxRun:
    """A network that was opened.

    Attributes:
        shapes: name -> shape of its inputs and outputs, in which texts are sizes that vary.
    """

    def __init__(self, network: Path | bytes, remedy: str, threads: int = 0) -> None:
        """Opens a file, or its content; so many threads compute, by default one per core.

        Raises:
            UserError: it is no such network; that ends in the remedy.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = _ERRORS_ALONE, threads
        try:
            # Not a path: a file of the same content would be read anew, and files beside it.
            data = network if isinstance(network, bytes) else network.read_bytes()
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except OSError:
            raise
        except Exception as error:  # its types are no public names
            what = "a network" if isinstance(network, bytes) else network
            raise UserError(f"{what} cannot be run: {_one_line(error)}; {remedy}") from None
        named = (*self._session.get_inputs(), *self._session.get_outputs())
        self.shapes = {one.name: tuple(one.shape) for one in named}

    def run(self, given: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the first output for arrays of the inputs' types and shapes.

        Raises:
            UserError: the inputs do not fit, or memory does not suffice.
        """
        try:
            return self._session.run(None, dict(given))[0]
        except Exception as error:  # its types are no public names
            raise UserError(f"the network cannot be run: {_one_line(error)}") from None

    def milliseconds(self, given: Mapping[str, np.ndarray]) -> float:
        """Returns how long `run` takes; see `milliseconds_of`."""
        return milliseconds_of(lambda: self.run(given))


def milliseconds_of(run: Callable[[], Any]) -> float:
    """Returns how long something takes, the median over repeats."""
    return 1000 * statistics.median(list(_durations(run))[_WARM_UP:])


def _durations(run: Callable[[], Any]) -> Iterator[float]:
    begun, count = time.perf_counter(), 0
    while count < _WARM_UP + _LEAST_REPEATS or time.perf_counter() - begun < _SECONDS:
        start, count = time.perf_counter(), count + 1
        run()
        yield time.perf_counter() - start


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST]


def machine() -> str:
    """Returns in words what one thread here runs on."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    told = f"one thread of {name} ({platform.system()}), onnxruntime {onnxruntime.__version__}"
    return " ".join(told.split())

"""Latency is of one thread here, or what a device measured."""

import numpy as np
import onnx
import pytest

from privynet_jax.backbone.onnx_model import onnx_model, timing_model
from privynet_jax.backbone.split import local_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.planning.latency import Meter
from privynet_jax.platform.onnx_files.onnx_run import IMAGES, OnnxRun
from privynet_jax.results.latencies import Latencies, Latency


def test_a_latency_is_plausible_and_says_where():
    meter = Meter()
    milliseconds = meter.measure(Topology(4, range(8)), image_size=32)
    # 60.8 million multiply-accumulates: no core does 10 ** 13 of them per second, or 10 ** 7.
    assert 1000 * 60.8e6 / 1e13 < milliseconds < 1000 * 60.8e6 / 1e7
    assert meter.where.startswith("one thread of ")
    assert "onnxruntime" in meter.where
    # 6.5 against 248 million: a busy machine does not turn that round.
    shallow, deep = (meter.measure(Topology(m, range(8)), 32) for m in (2, 10))
    assert deep > 2 * shallow
    with pytest.raises(UserError, match="1x1 pixels; conv2_2 needs"):
        meter.measure(Topology(4, (0,)), 1)


def test_what_is_timed_is_the_local_nn_in_a_few_bytes(vgg_weights):
    """The same operators on the same shapes; values stay far from denormal numbers."""
    topology = Topology(7, range(5))
    data = timing_model(topology, 32)
    assert len(data) < 10_000
    real = onnx_model(topology, local_params(vgg_weights.params, topology), [1.0] * 5, 32)
    made_up, local = OnnxRun(data, "again", threads=1), OnnxRun(real, "again", threads=1)
    assert made_up.shapes == local.shapes
    nodes = [onnx.load_from_string(each).graph.node for each in (data, real)]
    kinds = [[n.op_type for n in each if n.op_type != "ConstantOfShape"] for each in nodes]
    assert kinds[0] == kinds[1]
    images = np.full((1, 32, 32, 3), 128, np.uint8)
    values = made_up.run({IMAGES: images})
    assert values.min() > 1e-3
    assert values.max() < 1e3


def test_a_device_s_figures_are_looked_up():
    meter = Meter(Latencies("a phone", "vgg16", 32, (Latency(4, 8, 12.5),)))
    assert (meter.measure(Topology(4, range(8, 16)), 32), meter.where) == (12.5, "a phone")
    with pytest.raises(UserError, match="nothing of 4 layers with 9 channels; measure again"):
        meter.measure(Topology(4, range(9)), 32)
    with pytest.raises(UserError, match="is of vgg16 on images of 32 pixels, and this is vgg16 on"):
        meter.measure(Topology(4, range(8)), 64)

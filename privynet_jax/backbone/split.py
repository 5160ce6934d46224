"""A backbone as pure functions, whole or cut to one topology: the local NN, which runs on a device.

Only this module, and `onnx_model` for devices, know what computes a backbone. Parameters are plain
pytrees, {"conv1_1": {"kernel": array, "bias": array}, ..., "preprocessing": {...}}, the input
transform of the weights among them; images are float32 [N, H, W, 3] RGB in [0, 1].

    local = local_nn(weights.params, Topology(4, (3, 17, 90)))
    representation = jax.jit(local)(images)  # [N, 16, 16, 3] for images [N, 32, 32, 3]
    found = activations(backbone, params, images, [2, 4])  # {2: [N, 32, 32, 64], 4: ...}
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from privynet_jax.backbone.backbones import Backbone, backbone_named
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.vgg import TILES, VGGTrunk
from privynet_jax.backbone.weights.families import NO_TRANSFORM
from privynet_jax.backbone.winograd import LEAST_CHANNELS, transformed
from privynet_jax.errors import UserError

Params = Mapping[str, Mapping[str, jax.Array | np.ndarray]]
# Kind of network -> Flax module (backbone, number of the last cut, channels computed there).
_NETWORKS = {"vgg": VGGTrunk}


def local_nn(params: Params, topology: Topology, tiled: bool = False) -> Partial:
    """Returns the local NN of a topology: a pure function that can be jitted, vmapped and exported.

    It takes images, float32 [N, H, W, 3] or [H, W, 3] RGB in [0, 1], to their representation,
    float32 [N, h, w, depth] or [h, w, depth]: the ReLU of the last local convolution before
    pooling, channels in the topology's order. Images of another shape or type are a UserError;
    other errors are those of `local_params`. Tiled, it takes less time on a CPU (`with_tiles`). It
    is a pytree of its parameters as well: as an argument of a program it compiles sooner than with
    constants.
    """
    # Put on the device once, so that calls outside jit do not copy the parameters each time.
    stored = jax.tree.map(jnp.asarray, local_params(params, topology))
    stored = jax.jit(with_tiles)(stored) if tiled else stored
    return Partial(_Pass(topology.backbone, topology.num_layers, topology.depth), stored)


def layer_nn(
    backbone: Backbone, params: Params, number: int, channels: np.ndarray | None = None
) -> Partial:
    """Returns as `local_nn` the first layers up to a number, with all of the last one's channels.

    Or with some, int [D]. Parameters are all of these layers', uncut, and may be `with_tiles`.
    """
    names = [layer.name for layer in backbone.convolutions(number)]
    given, depth = params.get(TILES, {}), backbone.cut(number).channels
    own = {name: params[name] for name in ("preprocessing", *names)}
    tiles = {name: given[name] for name in names if name in given}
    if channels is not None:
        depth = len(channels)
        own, tiles = ({**each, **_cut(each, names[-1], channels)} for each in (own, tiles))
    return Partial(_Pass(backbone.name, number, depth), {**own, TILES: tiles})


@dataclasses.dataclass(frozen=True)
class _Pass:
    """What a local NN makes of its parameters and images; equal ones share their programs."""

    backbone: str
    num_layers: int
    depth: int

    def __call__(self, params: Params, images: jax.Array) -> jax.Array:
        is_single = images.ndim == 3
        network = dataclasses.astuple(self)
        representation = _apply(*network, params, images[None] if is_single else images)
        return representation[0] if is_single else representation


def local_params(params: Params, topology: Topology) -> Params:
    """Returns what the device stores: the topology's layers, the last cut to its channels.

    That is a pytree for `backbone.split.apply`; arrays that need no cut are shared with `params`,
    all of the backbone's parameters, as `sources.load_weights` gives them.

    Raises:
        UserError: a layer of the topology is absent from the parameters or not of its width.
    """
    backbone = backbone_named(topology.backbone)
    layers = backbone.convolutions(topology.num_layers)
    names = ["preprocessing", *(layer.name for layer in layers)]
    problems = [f"no {name}" for name in names if name not in params]
    # Parameters that were already cut: their channels would be taken for other ones.
    for layer in layers:
        if layer.name in params and params[layer.name]["kernel"].shape != layer.kernel:
            found = tuple(params[layer.name]["kernel"].shape)
            problems.append(f"{layer.name} kernel {found} instead of {layer.kernel}")
    if problems:
        raise UserError(
            f"parameters do not fit the first {topology.num_layers} layers of {backbone.title}: "
            f"{'; '.join(problems)}; give the uncut parameters of weights.load_weights"
        )
    stored = {name: dict(params[name]) for name in names}
    return {**stored, **_cut(stored, names[-1], topology.channels)}


def _cut(params: Params, name: str, channels: Sequence[int]) -> Params:
    """One layer's parameters, if there are any, of some of its channels."""
    own, chosen = params.get(name, {}), np.asarray(channels)
    # `take` rather than indexing: NumPy's indexing would leave the result in another memory order.
    return {name: {kind: array.take(chosen, axis=-1) for kind, array in own.items()}}


def apply(
    topology: Topology, params: Params, images: jax.Array, is_rectified: bool = True
) -> jax.Array:
    """Returns representations, float32 [N, h, w, depth], by `local_params`.

    These may be `with_tiles`. Unless rectified, they are what the last ReLU would be given.
    UserError: the images have another rank, channel count or type, or are too small.
    """
    network = topology.backbone, topology.num_layers, topology.depth
    return _apply(*network, params, images, is_rectified)


def _apply(
    backbone: str,
    num_layers: int,
    depth: int,
    params: Params,
    images: jax.Array,
    is_rectified: bool = True,
) -> jax.Array:
    known = backbone_named(backbone)
    module = _NETWORKS[known.network](known, num_layers, depth, is_rectified=is_rectified)
    return module.apply({"params": params, TILES: params.get(TILES, {})}, images)[0]


def activations(
    backbone: Backbone,
    params: Params,
    images: jax.Array,
    layers: Collection[int],
    after: int = 0,
) -> dict[int, jax.Array]:
    """Returns layer -> all channels, float32 [N, h, w, C], from one pass.

    What layer `after` gives may take the place of images, and parameters may be `with_tiles`. Under
    `jax.jit`, layers that are not asked for cost nothing beyond what deeper ones need. Errors are
    those of `apply`.
    """
    trunk = _NETWORKS[backbone.network]
    variables = {"params": params, TILES: params.get(TILES, {})}
    _, found = trunk(backbone, max(layers), None, after).apply(variables, images)
    return {layer: found[layer] for layer in layers}


def with_tiles(params: Params) -> Params:
    """Returns parameters with which `activations` take half the time on a CPU, and more memory."""
    wide = {name: own["kernel"] for name, own in params.items() if "kernel" in own}
    tiles = {n: {"kernel": transformed(k)} for n, k in wide.items() if k.shape[2] >= LEAST_CHANNELS}
    return {**params, TILES: tiles}


def made_up_params(backbone: Backbone, num_layers: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns random parameters up to a cut, which keep activations at about 1, far from denormal.

    For measuring time: a convolution takes as long whatever it multiplies.
    """
    stream = np.random.default_rng(0)
    params = {"preprocessing": dict(NO_TRANSFORM)}
    for layer in backbone.convolutions(num_layers):
        deviation = np.float32(np.sqrt(2 / np.prod(layer.kernel[:3])))
        params[layer.name] = {
            "kernel": deviation * stream.standard_normal(layer.kernel, np.float32),
            "bias": np.zeros(layer.out_channels, np.float32),
        }
    return params

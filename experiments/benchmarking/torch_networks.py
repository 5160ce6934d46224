"""The project's networks in PyTorch, as somebody who works with PyTorch would write them.

They take and return what the networks of `privynet_jax` do, [N, h, w, D], and inside are NCHW in
the memory order channels_last, which is PyTorch's fastest on CPU and GPU. Parts are named as Flax
names them, in small letters, so that `load_params` can copy parameters; a test compares outputs.
Needs the extra `torch`; import it inside functions.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from privynet_jax.backbone.backbones import VGG16

_WORKING_STRIDE = 4


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, h, w] -> the same."""
        return x + self.conv_1(functional.relu(self.conv_0(functional.relu(x))))


class Attention(nn.Module):
    """Every position looks at every other one, around a skip."""

    def __init__(self, width: int, positions: int, num_heads: int = 4) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.layer_norm_0 = nn.LayerNorm(width, eps=1e-6)
        self.places = nn.Parameter(torch.zeros(positions, width))
        self.dense_0 = nn.Linear(width, 3 * width)
        self.dense_1 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, h, w] -> the same."""
        channels_last = x.permute(0, 2, 3, 1)
        tokens = self.layer_norm_0(channels_last.flatten(1, 2))
        mixed = self.dense_0(tokens + self.places)
        heads = mixed.view(*mixed.shape[:2], 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(*heads).transpose(1, 2)
        found = self.dense_1(found.reshape(tokens.shape))
        return x + found.view(channels_last.shape).permute(0, 3, 1, 2)


class WorkingGrid(nn.Module):
    """Brings a representation of any stride to the working grid."""

    def __init__(self, shape: tuple[int, ...], image_size: int, width: int, stride: int) -> None:
        super().__init__()
        own = image_size // shape[0]
        self._folding, self._width = max(1, stride // own), width
        unfolding = max(1, own // stride)
        self.stem = nn.Linear(shape[-1] * self._folding**2, width * unfolding**2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, h, w, D] -> [N, width, image_size / stride, image_size / stride]."""
        x = self.stem(space_to_depth(torch.log1p(x), self._folding))
        return depth_to_space(x, self._width).permute(0, 3, 1, 2)


class CloudNN(nn.Module):
    """Representation -> class logits; see `privynet_jax`' own."""

    def __init__(
        self, shape: tuple[int, ...], num_classes: int, image_size: int, width: int
    ) -> None:
        super().__init__()
        self.working_grid_0 = WorkingGrid(shape, image_size, width, _WORKING_STRIDE)
        self.residual_block_0 = ResidualBlock(width)
        self.conv_0 = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.residual_block_1 = ResidualBlock(2 * width)
        self.layer_norm_0 = nn.LayerNorm(2 * width, eps=1e-6)
        self.dense_0 = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, h, w, D] -> [N, num_classes]."""
        x = self.residual_block_0(self.working_grid_0(x))
        x = self.residual_block_1(self.conv_0(functional.relu(x)))
        return self.dense_0(self.layer_norm_0(x.mean((2, 3))))


class StrongAttacker(nn.Module):
    """Representation -> image: a correction of the linear estimate, which it sees as well."""

    def __init__(
        self, shape: tuple[int, ...], image_size: int, kernel: np.ndarray, bias: np.ndarray
    ) -> None:
        """Takes the shape of a representation, [h, w, D], and its `LinearAttack`."""
        super().__init__()
        fine = shape[0] == image_size
        self._stride, width = (_WORKING_STRIDE // 2, 64) if fine else (_WORKING_STRIDE, 96)
        positions = (image_size // self._stride) ** 2
        self._num_blocks, self._attends = 2, not fine and positions <= 1024
        self.register_buffer("kernel", torch.tensor(kernel).permute(3, 2, 0, 1), persistent=False)
        self.register_buffer("bias", torch.tensor(bias), persistent=False)
        self.working_grid_0 = WorkingGrid(shape, image_size, width, self._stride)
        self.dense_0 = nn.Linear(self._stride**2 * 3, width)
        for number in range(self._num_blocks):
            self.add_module(f"residual_block_{number}", ResidualBlock(width))
            if self._attends:
                self.add_module(f"attention_{number}", Attention(width, positions))
        self.head = nn.Conv2d(width, self._stride**2 * 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, h, w, D] -> [N, image_size, image_size, 3]."""
        blocks = functional.conv2d(x.permute(0, 3, 1, 2), self.kernel, self.bias, padding=1)
        estimate = depth_to_space(blocks.permute(0, 2, 3, 1), 3)
        shown = self.dense_0(space_to_depth(estimate - 0.5, self._stride))
        x = self.working_grid_0(x) + shown.permute(0, 3, 1, 2)
        for number in range(self._num_blocks):
            x = getattr(self, f"residual_block_{number}")(x)
            if self._attends:
                x = getattr(self, f"attention_{number}")(x)
        head = self.head(functional.relu(x))
        return estimate + depth_to_space(head.permute(0, 2, 3, 1), 3)


class _NormalisedBlock(nn.Module):
    """A residual block of SRGAN's generator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        first, second = ([conv, nn.BatchNorm2d(width)] for conv in convolutions)
        self.layers = nn.Sequential(*first, nn.PReLU(), *second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Decoder(nn.Module):
    """The generator of SRGAN (arXiv:1609.04802, figure 4): what such attackers usually are.

    With 8 blocks, as PrivyNet has them, and from as many channels as are released.
    """

    def __init__(self, shape: tuple[int, ...], image_size: int, width: int = 64) -> None:
        super().__init__()
        blocks = [_NormalisedBlock(width) for _ in range(8)]
        last = nn.Conv2d(width, width, 3, padding=1, bias=False)
        unfolding = [
            layer
            for _ in range((image_size // shape[0]).bit_length() - 1)
            for layer in (
                nn.Conv2d(width, 4 * width, 3, padding=1),
                nn.PixelShuffle(2),
                nn.PReLU(),
            )
        ]
        self.stem = nn.Sequential(nn.Conv2d(shape[-1], width, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*blocks, last, nn.BatchNorm2d(width))
        self.head = nn.Sequential(*unfolding, nn.Conv2d(width, 3, 9, padding=4))

    def forward(self, x: Tensor) -> Tensor:
        """[N, h, w, D] -> [N, image_size, image_size, 3]."""
        x = self.stem(x.permute(0, 3, 1, 2))
        return self.head(x + self.body(x)).permute(0, 2, 3, 1)


class Trunk(nn.Module):
    """VGG16's first layers, from images [N, 3, H, W] as its input transform made them."""

    def __init__(self, params: Mapping[str, Mapping[str, Any]], num_layers: int) -> None:
        super().__init__()
        layers, stride = [], 1
        for cut in VGG16.cuts[:num_layers]:
            if cut.stride > stride:
                layers.append(nn.MaxPool2d(2))
                stride = cut.stride
            kernel = torch.tensor(np.asarray(params[cut.name]["kernel"]).transpose(3, 2, 0, 1))
            conv = nn.Conv2d(*reversed(kernel.shape[:2]), 3, padding=1)
            conv.weight.data = kernel
            conv.bias.data = torch.tensor(np.asarray(params[cut.name]["bias"]))
            layers += [conv, nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, channels, h, w]."""
        return self.layers(x)


def depth_to_space(x: Tensor, channels: int) -> Tensor:
    """[N, h, w, r * r * channels] -> [N, h * r, w * r, channels]."""
    count, height, width, depth = x.shape
    ratio = round((depth // channels) ** 0.5)
    x = x.reshape(count, height, width, ratio, ratio, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(count, height * ratio, width * ratio, channels)


def space_to_depth(x: Tensor, ratio: int) -> Tensor:
    """[N, H, W, C] -> [N, H / r, W / r, r * r * C]."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // ratio, ratio, width // ratio, ratio, channels)
    x = x.permute(0, 1, 3, 2, 4, 5)
    return x.reshape(count, height // ratio, width // ratio, ratio * ratio * channels)


def load_params(network: nn.Module, params: Mapping[str, Any]) -> nn.Module:
    """Returns the network with a Flax network's variables, {"params": ...}; all must be there."""
    state = {}
    for (*places, kind), value in flax.traverse_util.flatten_dict(params["params"]).items():
        tensor = torch.tensor(np.asarray(value))
        if kind == "kernel":
            tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
        name = kind if kind in ("bias", "places") else "weight"
        state[".".join([*(_small(place) for place in places), name])] = tensor
    network.load_state_dict(state)
    return network.to(memory_format=torch.channels_last)


def _small(name: str) -> str:
    """ResidualBlock_0 -> residual_block_0."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()

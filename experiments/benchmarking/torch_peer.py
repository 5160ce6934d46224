"""Training and extraction in PyTorch, as its users write them: the peer of what is measured here.

Features and images are in memory, the same arrays as here. Needs the extra `torch`; import it
inside functions.
"""

import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarking.inputs import CLASSES, Learnt, Setup
from experiments.benchmarking.torch_networks import CloudNN, StrongAttacker, Trunk, load_params
from privynet_jax.errors import UserError
from privynet_jax.platform.devices import usable_cores
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.tasks import LABEL_SMOOTHING, WEIGHT_DECAY

Loss = Callable[[Tensor, Tensor], Tensor]


def start(device: str) -> str:
    """Lets PyTorch use what this process may; returns what it is, for the record.

    UserError: it cannot compute there.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(
            f"PyTorch {torch.__version__} finds no CUDA device, and JAX computes on another; "
            "install a PyTorch for it, or set JAX_PLATFORMS=cpu"
        )
    torch.set_num_threads(usable_cores())
    torch.backends.cudnn.allow_tf32 = False  # full float32, as here
    kind = torch.cuda.get_device_name(device) if device != "cpu" else f"{usable_cores()} threads"
    return f"PyTorch {torch.__version__} on {kind}"


def compiles() -> bool:
    """Whether `torch.compile` can work here: for CPUs it needs a C++ compiler."""
    return any(map(shutil.which, ("g++", "clang++", "c++")))


def network_of(what: Learnt, params: Any, shape: tuple[int, ...], setup: Setup) -> nn.Module:
    """Returns what a cell trains, with the same parameters, for representations [h, w, D]."""
    if isinstance(what.constants, LinearAttack):
        network = StrongAttacker(shape, setup.image_size, *what.constants)
    else:
        network = CloudNN(shape, CLASSES, setup.image_size, setup.width)
    return load_params(network, params)


class Recipe(NamedTuple):
    """How a network is trained; the loss is what its targets ask for, unless one is given."""

    batch_size: int
    learning_rate: float
    loss: Loss | None = None
    compiled: bool = False
    device: str = "cpu"


class Training:
    """A network that learns from arrays in memory, by AdamW with clipped gradients."""

    def __init__(
        self, network: nn.Module, arrays: tuple[np.ndarray, np.ndarray], recipe: Recipe
    ) -> None:
        """Takes representations and targets: labels int [N], or images uint8 [N, H, W, 3]."""
        self.network = network.to(recipe.device, memory_format=torch.channels_last)
        self._inputs, self._targets = (torch.as_tensor(x, device=recipe.device) for x in arrays)
        self._recipe = recipe
        self._optimiser = torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )
        loss = recipe.loss or loss_of(self._targets)

        def of_batch(x: Tensor, y: Tensor) -> Tensor:
            return loss(self.network(x), as_answers(y))

        self._loss = torch.compile(of_batch) if recipe.compiled else of_batch
        self._generator = torch.Generator().manual_seed(0)

    def run(
        self,
        steps: int,
        rates: Callable[[float], float] = lambda share: 1.0,
        told: Callable[[], Any] = lambda: None,
    ) -> None:
        """Takes steps, and returns when they are taken.

        `rates` says at how many times the learning rate, of the share of steps that are over;
        `told` is called after each.
        """
        recipe, order = self._recipe, torch.zeros(0, dtype=torch.int64)
        self.network.train()
        for number in range(steps):
            if len(order) < recipe.batch_size:  # a new epoch
                order = torch.randperm(len(self._inputs), generator=self._generator)
            rows, order = order[: recipe.batch_size], order[recipe.batch_size :]
            rows = rows.to(recipe.device)
            rate = recipe.learning_rate * rates(number / steps)
            self._optimiser.param_groups[0]["lr"] = rate
            self._optimiser.zero_grad(set_to_none=True)
            self._loss(self._inputs[rows].float(), self._targets[rows]).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self._optimiser.step()
            told()
        synchronise(recipe.device)

    @torch.inference_mode()
    def answers(self, inputs: np.ndarray, at_once: int = 256) -> np.ndarray:
        """Returns the network's outputs float32 [N, ...] for representations."""
        self.network.eval()
        batches = torch.as_tensor(inputs).split(at_once)
        found = [self.network(x.to(self._recipe.device).float()).cpu() for x in batches]
        return torch.cat(found).numpy()


def extraction(
    params: Mapping[str, Any], num_layers: int, images: np.ndarray, device: str = "cpu"
) -> Callable[[], None]:
    """Returns what runs VGG16's first layers on transformed float32 images [N, H, W, 3]."""
    trunk = Trunk(params, num_layers).to(device, memory_format=torch.channels_last).eval()
    batch = torch.as_tensor(images, device=device).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def extract() -> None:
        trunk(batch)
        synchronise(device)

    return extract


def synchronise(device: str) -> None:
    """Waits until everything is computed: on a CPU it is."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def loss_of(targets: Tensor) -> Loss:
    """Returns the loss of images or of labels."""
    return log_loss if targets.ndim == 4 else _smoothed_cross_entropy


def as_answers(targets: Tensor) -> Tensor:
    """Images uint8 become float32 in [0, 1], labels int64."""
    return targets.float() / 255 if targets.ndim == 4 else targets.long()


def log_loss(estimates: Tensor, images: Tensor) -> Tensor:
    """`training.tasks.log_loss`."""
    errors = (estimates - images).square().mean((1, 2, 3))
    return 0.02 * (errors + 1e-5).log().mean()


def squared_loss(estimates: Tensor, images: Tensor) -> Tensor:
    """The mean squared error over all values."""
    return functional.mse_loss(estimates, images)


def _smoothed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)

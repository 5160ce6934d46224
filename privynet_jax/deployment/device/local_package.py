"""The package that is put on a device: one folder with all it takes to run a local NN there.

`device_nn` runs it, here and, as a copy, on the device.

    write_package(Path("device"), plan, weights.params)
    package = open_package(Path("device"))
    package.local(images)  # float32 [N, *package.shape]

Compared with the published network, the weights tell which channels were chosen, and settings hold
the seed of releases: a package is as secret as its plan.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export

from privynet_jax.backbone.backbones import backbone_named
from privynet_jax.backbone.split import Params, apply, local_params, program_of
from privynet_jax.deployment.device import device_nn
from privynet_jax.deployment.device.package_readme import TEXT
from privynet_jax.errors import UserError
from privynet_jax.planning.plan import Plan
from privynet_jax.platform.documents import Count, Hex64, Positive, Text, White, checked
from privynet_jax.platform.files import appears_whole, check_is_new, write_atomically

DTYPES = ("float32", "float16")
_EXPORT = "give a folder that experiments.export_local wrote, copy it again, or export it again"
_LONGEST_REASON = 300  # JAX tells whole shapes
PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, STABLEHLO, README = "local_nn.py", "local_nn.stablehlo", "README.md"

# Relative to a tensor's norm: float16 itself takes 3e-4 of ordinary weights.
_MOST_LOST = 3e-3


@dataclasses.dataclass(frozen=True, eq=False)
class LocalPackage:
    """A package that was opened and verified.

    Attributes:
        image_size: side of the images, in pixels.
        shape: (h, w, depth) of one representation.
        class_names: of the user's pictures, in the order of their labels in releases.
        scales: float32 [depth], what representations are multiplied by before release.
        peaks: float32 [depth], the largest value, after that, which a byte of a release holds.
        sixteen_bit_max: white in greyscale of 16 bits that states no range; 0: nothing is said.
        plan_id: of the plan that it was made of.
        release_seed: 64 hexadecimal digits, secret, made for this package.
        local: images, float32 [N, image_size, image_size, 3] RGB in [0, 1], to representations,
            float32 [N, h, w, depth], not normalised; jitted. UserError for other images.
    """

    image_size: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    scales: np.ndarray = dataclasses.field(repr=False)
    peaks: np.ndarray = dataclasses.field(repr=False)
    sixteen_bit_max: int
    plan_id: str
    release_seed: str = dataclasses.field(repr=False)
    local: Callable[[jax.Array | np.ndarray], jax.Array] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A convolution, as the program for devices takes it."""

    name: Text
    stride: Count


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What local_nn.json tells besides its format, version and checksum."""

    image_size: Count
    shape: tuple[Count, Count, Count]
    backbone: Text
    layers: tuple[_Layer, ...]
    class_names: tuple[Text, ...]
    scales: tuple[Positive, ...]
    peaks: tuple[Positive, ...]
    sixteen_bit_max: White
    plan_id: Hex64
    release_seed: Hex64
    trial: tuple[float, ...]
    files: dict[Text, Hex64]

    def __post_init__(self) -> None:
        backbone_named(self.backbone)
        if {len(self.scales), len(self.peaks), len(self.trial)} != {self.shape[-1]}:
            raise UserError("scales, peaks and trial are not one number per channel")


def write_package(folder: Path, plan: Plan, params: Params, *, dtype: str = "float32") -> None:
    """Writes a package, which appears whole or not at all, readable by the user alone.

    Args:
        folder: must be new or empty; folders above it are made.
        plan: which local NN, and what goes with it.
        params: all of the backbone's parameters, those that the plan was made with.
        dtype: how kernels and biases are stored, one of `DTYPES`. Computed is float32 either way.

    Raises:
        UserError: the folder holds something, or the weights do not fit the plan or the type.
    """
    check_is_new(folder)  # before anything is computed
    stored = _rounded(local_params(params, plan.topology), dtype)
    trunk = jax.jit(functools.partial(apply, plan.topology, stored))  # as all measurements used it
    backbone = backbone_named(plan.topology.backbone)
    convolutions = backbone.convolutions(plan.topology.num_layers)
    layers = [{"name": layer.name, "stride": layer.stride} for layer in convolutions]
    program, described = program_of(backbone), {"backbone": backbone.name, "layers": layers}
    tensors = {f"{group}/{kind}": a for group, kinds in stored.items() for kind, a in kinds.items()}
    shape = plan.topology.representation_shape(plan.image_size)
    files = {
        device_nn.WEIGHTS: safetensors.numpy.save(tensors),
        STABLEHLO: exported(program.network(described), stored, plan.image_size),
        PROGRAM: inspect.getsource(device_nn).encode(),
        device_nn.NETWORK: inspect.getsource(program).encode(),
        README: _readme(plan.image_size, shape, tensors).encode(),
    }
    told = _Settings(
        image_size=plan.image_size,
        shape=shape,
        **described,
        class_names=plan.released_classes,
        scales=plan.scales,
        peaks=plan.peaks,
        sixteen_bit_max=plan.sixteen_bit_max,
        plan_id=plan.id,
        release_seed=secrets.token_hex(32),
        trial=device_nn.trial(trunk, plan.image_size).tolist(),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    settings = {"format": device_nn.FORMAT, "version": device_nn.VERSION}
    settings |= dataclasses.asdict(told)
    settings["sha256"] = device_nn.settings_digest(settings)
    files[device_nn.SETTINGS] = (json.dumps(settings, indent=1) + "\n").encode()
    with appears_whole(folder) as partial:
        partial.mkdir(mode=0o700)
        for name, content in files.items():
            write_atomically(partial / name, content, private=True)


def _readme(size: int, shape: tuple[int, ...], tensors: Mapping[str, np.ndarray]) -> str:
    rows = [
        f"| {number} | `{name}` | {tensors[name].dtype} {list(tensors[name].shape)} |"
        for number, name in enumerate(sorted(tensors))
    ]
    rows.append(f"| {len(rows)} | images | float32 [batch, {size}, {size}, 3] |")
    told = {"shape": ", ".join(map(str, shape)), "platforms": ", ".join(PLATFORMS)}
    return TEXT.format(size=size, rows="\n".join(rows), jax=jax.__version__, **told)


def exported(network: device_nn.Network, stored: Params, image_size: int) -> bytes:
    """Returns the local NN as `jax.export` serialises it, for every platform and batch size.

    The weights are arguments: as constants they would be stored twice.
    """
    [batch] = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.float32)
    params = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), stored)
    # Else it names the folders of this machine that the source files lie in.
    frames = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        lowered = export.export(jax.jit(network), platforms=PLATFORMS)(params, images)
        return bytes(lowered.serialize())
    finally:
        jax.config.update("jax_traceback_in_locations_limit", frames)


def open_package(folder: Path) -> LocalPackage:
    """Opens a package and verifies every file of it.

    Raises:
        UserError: something is missing, damaged, of another version or inconsistent, or it is no
            package.
    """
    try:
        settings = device_nn.read_settings(folder)
        told = {name: settings[name] for name in settings.keys() - {"format", "version", "sha256"}}
        found = checked(told, _Settings, f"{folder} is no package for a device", _EXPORT)
        # This library's own program for the backbone; the copy in the package is not run.
        network = program_of(backbone_named(found.backbone)).network(settings)
        run = device_nn.load(folder, settings, network)
        images = jax.ShapeDtypeStruct((1, found.image_size, found.image_size, 3), np.float32)
        if jax.eval_shape(run, images).shape[1:] != found.shape:
            raise ValueError(f"its weights do not give {found.shape}")
        return LocalPackage(
            image_size=found.image_size,
            shape=found.shape,
            class_names=found.class_names,
            scales=np.float32(found.scales),
            peaks=np.float32(found.peaks),
            sixteen_bit_max=found.sixteen_bit_max,
            plan_id=found.plan_id,
            release_seed=found.release_seed,
            local=functools.partial(_checked, run),
        )
    except device_nn.PackageError as error:
        raise UserError(f"{error}, or export it again") from None
    except UserError:
        raise
    except OSError as error:
        why = f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        why = f"{folder} is no package for a device: {type(error).__name__}: {reason}"
    raise UserError(f"{why}; {_EXPORT}")


def _checked(run: Callable[[Any], jax.Array], images: jax.Array | np.ndarray) -> jax.Array:
    try:
        return run(images)
    except device_nn.PackageError as error:
        raise UserError(str(error)) from None


def _rounded(params: Params, dtype: str) -> dict[str, dict[str, np.ndarray]]:
    """Returns parameters in the type they are stored in; the input transform stays as it is."""
    if dtype not in DTYPES:
        raise UserError(
            f"weights cannot be stored as {dtype!r}; allowed are {', '.join(DTYPES)}; "
            "float32 is the usual choice"
        )
    stored = jax.tree.map(np.asarray, dict(params))
    for group in stored.keys() - {"preprocessing"}:
        for kind, array in stored[group].items():
            with np.errstate(over="ignore", under="ignore"):
                rounded = np.ascontiguousarray(array, dtype)
            lost = np.linalg.norm(np.float32(rounded) - array)
            if not lost <= _MOST_LOST * np.linalg.norm(array):
                raise UserError(
                    f"{group}/{kind} has numbers too large or too small for {dtype}; use float32"
                )
            stored[group][kind] = rounded
    return stored

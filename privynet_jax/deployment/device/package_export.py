"""Writes the package that is put on a device: one folder with all it takes to run a local NN there.

    write_package(Path("device"), plan, weights.params)

`local_package` opens it. The trial that tests a device comes from the network that all measurements
used, not from the one that is written.
"""

import dataclasses
import functools
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from privynet_jax.backbone.onnx_model import onnx_model
from privynet_jax.backbone.split import Params, apply, local_params
from privynet_jax.deployment.cloud.cloud_graph import cloud_graph
from privynet_jax.deployment.device.local_package import (
    CLOUD_NETWORK,
    NETWORK,
    SETTINGS,
    VERSION,
    Settings,
    trial_images,
)
from privynet_jax.deployment.device.package_readme import DEMONSTRATION, TEXT
from privynet_jax.deployment.device.program import PROGRAM
from privynet_jax.deployment.device.program_archive import WHEEL, program_archive, program_wheel
from privynet_jax.deployment.page.page_file import PAGE, Attacker, check_possible, page_of
from privynet_jax.deployment.trust.keys import PrivateKey
from privynet_jax.deployment.trust.signatures import sign
from privynet_jax.errors import UserError
from privynet_jax.images.label_tables import plain_name
from privynet_jax.images.parts import as_float
from privynet_jax.planning.plan import Plan
from privynet_jax.platform.documents import write_document
from privynet_jax.platform.files import appears_whole, check_is_new, write_atomically
from privynet_jax.platform.onnx_files.onnx_graph import OPSET
from privynet_jax.selection.secret_draw import class_ids

DTYPES = ("float32", "float16")
_README = "README.md"
# Relative to a tensor's norm: float16 itself takes 3e-4 of ordinary weights.
_MOST_LOST = 3e-3


def write_package(
    folder: Path,
    plan: Plan,
    params: Params,
    *,
    dtype: str = "float32",
    new_classes: Sequence[str] = (),
    key: PrivateKey | None = None,
    page_cache: Path | None = None,
    attacker: Attacker | None = None,
) -> None:
    """Writes a package, which appears whole or not at all, readable by the user alone.

    Args:
        folder: must be new or empty; folders above it are made.
        plan: which local NN, and what goes with it.
        params: all of the backbone's parameters, those that the plan was made with.
        dtype: how kernels and biases are stored, one of `DTYPES`. Computed is float32 either way.
        new_classes: names of classes that the plan's pictures did not have.
        key: whose signature it gets; None for no signature.
        page_cache: where what a page for browsers needs is kept; None for no page.
        attacker: what the page shows of one. Then the folder holds that page alone, and nothing
            that releases; it needs `page_cache`.

    Raises:
        UserError: the folder holds something, or the weights do not fit the plan or the type, or
            a class is not new, or the page cannot be made.
    """
    check_is_new(folder)  # before anything is computed
    if page_cache is not None:
        check_possible(plan.mechanism, plan.reading)
    elif attacker is not None:
        raise ValueError("Expected page_cache with attacker")
    classes = class_ids(_with_new(plan.class_names, new_classes), plan.selection.seed)
    stored = _rounded(local_params(params, plan.topology), dtype)
    trunk = jax.jit(functools.partial(apply, plan.topology, stored))  # as all measurements used it
    trial = np.asarray(trunk(as_float(trial_images(plan.image_size)))).mean((0, 1, 2))
    files = _files(plan, stored)
    settings = _settings(plan, classes, trial)
    if page_cache is not None:
        networks = files[NETWORK], files[CLOUD_NETWORK]
        files[PAGE] = page_of(settings, *networks, page_cache, attacker)
    if attacker is not None:
        files = {PAGE: files[PAGE], _README: DEMONSTRATION.encode()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    settings = dataclasses.replace(settings, files=digests)
    with appears_whole(folder) as partial:
        partial.mkdir(mode=0o700)
        for name, content in files.items():
            write_atomically(partial / name, content, private=True)
        if attacker is None:
            write_document(partial / SETTINGS, settings, VERSION, private=True)
            sign(partial / SETTINGS, "package", key)


def _files(plan: Plan, stored: Params) -> dict[str, bytes]:
    """Name -> content: what a device runs and reads; a page is made of these."""
    shape = plan.topology.representation_shape(plan.image_size)
    told = {"size": plan.image_size, "shape": ", ".join(map(str, shape)), "opset": OPSET}
    return {
        NETWORK: onnx_model(plan.topology, stored, plan.scales, plan.image_size),
        CLOUD_NETWORK: cloud_graph(shape),
        PROGRAM: program_archive(),
        WHEEL: program_wheel(),
        _README: TEXT.format(**told, wheel=WHEEL).encode(),
    }


def _settings(plan: Plan, classes: dict[str, str], trial: np.ndarray) -> Settings:
    """What the package tells, before its files are made; the trial is not scaled yet."""
    return Settings(
        image_size=plan.image_size,
        shape=plan.topology.representation_shape(plan.image_size),
        class_ids=classes,
        peaks=plan.peaks,
        mechanism=plan.mechanism,
        unit=plan.unit,
        reading=plan.reading,
        plan_id=plan.id,
        release_seed=secrets.token_hex(32),
        trial=tuple((trial * np.float32(plan.scales)).tolist()),
        files={},
    )


def _with_new(known: Sequence[str], new: Sequence[str]) -> list[str]:
    names = list(map(plain_name, [*known, *new]))
    if "" in names or len({*names}) < len(names):
        raise UserError(
            f"new classes are {', '.join(new)}; give names that differ from one another and from "
            f"the plan's, {', '.join(known)}"
        )
    return names


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

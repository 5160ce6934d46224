"""Converts pretrained weights of any accepted format into a checkpoint of this project.

    python -m experiments.port_weights --from=vgg16-397923af.pth --to=weights/torchvision

It prints every tensor's shape, mean, standard deviation and sha256. Use the result as
--weights=weights/torchvision: the input transform is part of it. Takes a few seconds.
"""

import hashlib
import itertools

import numpy as np
from absl import flags

from experiments import cli
from privynet_jax import Backbone, PretrainedWeights, load_weights
from privynet_jax.backbone.weights.checkpoint import save_checkpoint
from privynet_jax.backbone.weights.conversion import Params
from privynet_jax.backbone.weights.families import INPUT_TRANSFORMS
from privynet_jax.platform.files import check_is_new
from privynet_jax.results.text_tables import aligned

cli.key_flags("cache_dir")
_FROM = flags.DEFINE_string("from", None, cli.WEIGHTS_HELP)
_TRANSFORM = flags.DEFINE_enum(
    "input_transform",
    None,
    list(INPUT_TRANSFORMS),
    "Of the images, where it is another one than the file's names and first kernels tell.",
)
_TO = flags.DEFINE_string("to", None, "New folder for the checkpoint.")


def main() -> None:
    source, folder = cli.needed(_FROM, "name weights"), cli.needed_folder(_TO)
    check_is_new(folder)  # before anything is fetched or read
    cache_dir = cli.folder("cache_dir", cli.CACHE_DIR.value)
    weights = load_weights(
        source, cache_dir=cache_dir, backbone=None, input_transform=_TRANSFORM.value
    )
    save_checkpoint(
        folder, weights.params, weights.layout, weights.fingerprint, weights.backbone.name
    )
    print("\n".join(_report(weights)))
    print(f"Written to {folder}; use it as --weights={folder}")


def _report(weights: PretrainedWeights) -> list[str]:
    transform = {k: v.tolist() for k, v in weights.params["preprocessing"].items()}
    order = "".join("RGB"[index] for index in transform["channel_order"])
    scale, shift = (" ".join(f"{v:.6g}" for v in transform[key]) for key in ("scale", "shift"))
    return [
        f"Recognised as {weights.layout}.",
        f"Input: RGB in [0, 1] reordered to {order}, times {scale}, plus {shift}.",
        _table(weights.backbone, weights.params),
        f"Fingerprint of all parameters: {weights.fingerprint}",
    ]


def _table(backbone: Backbone, params: Params) -> str:
    rows = []
    for layer, kind in itertools.product(backbone.convolutions(), ("kernel", "bias")):
        array = params[layer.name][kind]
        row = {"name": f"{layer.name}/{kind}", "shape": "x".join(map(str, array.shape))}
        row["mean"] = f"{array.mean(dtype=np.float64):12.5e}"
        row["std"] = f"{array.std(dtype=np.float64):11.5e}"
        rows.append({**row, "sha256": hashlib.sha256(array.data).hexdigest()})
    return aligned(rows)


if __name__ == "__main__":
    cli.run(main)

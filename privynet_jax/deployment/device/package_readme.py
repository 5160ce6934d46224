"""The README of a package, written for whoever operates the device."""

TEXT = """# A local NN

This folder turns images into representations, on this device. A representation may leave the
device as agreed with whoever planned this; images, and this folder, may not.

## Keep it secret

Whoever has this folder can make representations of images of their own, and learn from such pairs
how to rebuild yours.

* `local_nn.json` holds the release seed and the scales.
* `local_nn.safetensors` holds weights, and they tell which channels of the network were chosen.

The other files hold no such secret. All of them are readable by their owner alone: keep it so when
you copy the folder (`cp -a`, `scp -rp`, `rsync -a`), and in backups.

## Run it

Needed: Python 3.11 or later, `jax` 0.7 or later, and NumPy. In this folder,

    python local_nn.py

verifies all files and tests whether the network does here what it did where it was made.

    python local_nn.py images.npy output.npy

writes the representations, float32 [N, {shape}], of a NumPy file of RGB images
[N, {size}, {size}, 3], which are uint8, or float32 in [0, 1]. From Python:

    import local_nn, numpy as np
    settings, run = local_nn.open_package(".")
    representations = run(images)                       # images: float32 in [0, 1]
    normalised = representations * np.float32(settings["scales"])

Only normalised representations are released: privynet_jax's `experiments.extract` makes releases
with this folder.

## Files

| file | what it is |
|---|---|
| `local_nn.json` | settings, and the sha256 of every file, its own included |
| `local_nn.safetensors` | weights of the layers and channels that are needed, and of no others |
| `local_nn.py` | the program |
| `local_network.py` | the network that it runs |
| `local_nn.stablehlo` | the same network as StableHLO, input transform included |
| `README.md` | this text |

A file that was changed or damaged is refused: copy the folder again. The sha256 are there against
accidents; they do not stop somebody who rewrites them as well.

## Without local_nn.py

`local_nn.stablehlo` is StableHLO as `jax.export` of jax {jax} serialises it, for {platforms} at
once and for any number of images. Weights are arguments. With `jax`, `flatbuffers` and
`safetensors`:

    from pathlib import Path
    import safetensors.numpy
    from jax import export

    params = {{}}
    for name, array in safetensors.numpy.load_file("local_nn.safetensors").items():
        group, kind = name.split("/")
        params.setdefault(group, {{}})[kind] = array
    network = export.deserialize(bytearray(Path("local_nn.stablehlo").read_bytes()))
    representations = network.call(params, images)      # images: float32 [N, {size}, {size}, 3]

`network.mlir_module()` is the text for other compilers. Its function `main` takes the number of
the platform first (int32: {platforms} are 0, 1, 2), then

| argument | name | type |
|---|---|---|
{rows}

and returns the representations. It multiplies float32 at full precision, on purpose: what is known
about privacy was measured that way.
"""

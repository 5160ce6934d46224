"""The README of a package, written for whoever operates the device."""

TEXT = """# A local NN

This folder turns images into representations, on this device. A representation may leave the
device as agreed with whoever planned this; images, and this folder, may not.

## Keep it secret

Whoever has this folder can make representations of images of their own, and learn from such pairs
how to rebuild yours.

* `local_nn.json` holds the release seed.
* `local_nn.onnx` holds weights, and they tell which channels of the network were chosen.

The other files hold no such secret. All of them are readable by their owner alone: keep it so when
you copy the folder (`cp -a`, `scp -rp`, `rsync -a`), and in backups.

## Run it

Needed: Python 3.11 or later, `onnxruntime`, and NumPy. In this folder,

    python local_nn.py

verifies all files and tests whether the network does here what it did where it was made.

    python local_nn.py images.npy output.npy

writes the representations, float32 [N, {shape}], of a NumPy file of RGB images, uint8
[N, {size}, {size}, 3]. From Python:

    import local_nn
    settings, represent = local_nn.open_package(".")
    representations = represent(images)

They are normalised, as releases are: privynet_jax's `experiments.extract` makes those with this
folder.

## Files

| file | what it is |
|---|---|
| `local_nn.json` | settings, and the sha256 of every file, its own included |
| `local_nn.onnx` | the network, with the weights of the layers and channels that are needed alone |
| `local_nn.py` | the program |
| `README.md` | this text |

A file that was changed or damaged is refused: copy the folder again. The sha256 are there against
accidents; they do not stop somebody who rewrites them as well.

## Without local_nn.py

`local_nn.onnx` is ONNX of opset {opset}, for any number N of images:

| | name | type |
|---|---|---|
| input | `images` | uint8 [N, {size}, {size}, 3], RGB |
| output | `representations` | float32 [N, {shape}] |

The transform of images that the weights expect, and the scales that normalise representations, are
in it. It multiplies float32 at full precision, on purpose: what is known about privacy was measured
that way. `trial` in `local_nn.json` is the mean of each channel over eight made-up images, where
image n has, at row y, column x and colour c, the value
(x * y * (c + 1) div (n + 1) + 40 * n * c + 3 * y) mod 251, all counted from 0.
"""

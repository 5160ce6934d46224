"""The README of a package, for whoever operates the device, and of a page for showing."""

DEMONSTRATION = """# A page for showing

`page.html` shows what a local NN releases of pictures and what one attacker rebuilds of that, in a
browser, which sends nothing. It is no package: nothing is released with it.

It holds the channels of the plan that it was made of, and an attacker on them. Release no picture
under that plan, now or later: whoever has this page can rebuild it. Make another plan for that.
"""

TEXT = """# A local NN

This folder turns images into representations, on this device. A representation may leave the
device as agreed with whoever planned this; images, and this folder, may not.

## Keep it secret

Whoever has this folder can make representations of images of their own, and learn from such pairs
how to rebuild yours.

* `local_nn.json` holds the release seed.
* `local_nn.onnx` holds weights, and they tell which channels of the network were chosen.

`page.html`, if it is there, holds both. The other files hold no such secret. Where `mechanism` in
`local_nn.json` names noise, its randomness comes from the seed and the picture's pixels, so that
this package releases equal pixels as it did before: nobody learns from the mean of both. Another
package, and a picture that was saved again, have noise of their own.

All files are readable by their owner alone: keep it so when you copy the folder (`cp -a`,
`scp -rp`, `rsync -a`), and in backups.

## Run it

Needed: Linux or macOS, Python 3.11 or later with `onnxruntime`, NumPy and Pillow, for HEIC
`pillow-heif`, and for DICOM `pydicom`. In this folder,

    python privynet.pyz check --trusted=planner.pub

verifies all files, and that somebody whom you trust made them (`pip install cryptography`; leave
`--trusted` out where nobody signed, and say `--unsigned` below), and tests whether the network does
here what it did where it was made. A program that came with a package cannot vouch for itself:
where the way was unsure, check with one that you have (`privynet-device check --package=.`).

    python privynet.pyz extract --images=folder:photos --out=release --trusted=planner.pub

releases pictures, one subfolder per class; hand over `release.tar`, and nothing else. With a
classifier that came back from the cloud,

    python privynet.pyz predict --images=folder:photos --classifier=classifier --out=classes.csv \\
        --trusted=package:planner.pub,classifier:cloud.pub

predicts classes here. `keys` makes a key of your own, and `extract --key` signs with it.
`extract --earlier=release.tar` releases what is new alone, `revoke` withdraws pictures. `--help`
behind each command tells the rest; `time` measures what a picture costs. From Python, for images
that are uint8 [N, {size}, {size}, 3] RGB, representations are float32 [N, {shape}]:

    import sys; sys.path.insert(0, "privynet.pyz")  # or pip install {wheel}
    from privynet_jax.deployment.device.local_package import Path, open_package
    representations = open_package(Path(".")).represent(images)

## Files

| file | what it is |
|---|---|
| `local_nn.json` | settings, and the sha256 of every file, its own included |
| `local_nn.json.signature` | who made this, if it is signed |
| `local_nn.onnx` | the network, with the weights of the layers and channels that are needed alone |
| `cloud_nn.onnx` | the network that classifiers are for, whose weights are inputs |
| `privynet.pyz` | the program: privynet_jax's own sources, zipped |
| `{wheel}` | the same, for pip: `privynet-device check --package=FOLDER` |
| `page.html` | if it was asked for: the same for a browser, which sends nothing; open it here |
| `README.md` | this text |

A file that was changed or damaged is refused: copy the folder again. The sha256 are there against
accidents; somebody who rewrites them as well is found out by the signature alone.

## Without Python

`privynet.pyz` tells onnxruntime to note nothing for its makers: how many pictures were looked at,
and when. Another program has to do so itself (`ORT_DISABLE_TELEMETRY=1` in its environment).

**Where `mechanism` in `local_nn.json` is not `none`, what `local_nn.onnx` gives must not leave the
device**: the program alone adds noise to it.

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

`cloud_nn.onnx` takes `representations` and the tensors of a classifier's `params.safetensors`, by
their names, and gives `logits`. Run no network that came from the cloud itself.
"""

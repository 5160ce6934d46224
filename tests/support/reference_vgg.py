"""VGGs in float64 by sliding windows, sharing no code with JAX or Flax."""

import numpy as np

POOLED_BEFORE = (2, 4, 7, 10)


def reference_trunk(layers, network_input, num_layers=None, pooled_before=POOLED_BEFORE):
    """Every layer's output before pooling.

    Args:
        layers: (HWIO kernel, bias) of each convolution in order.
        network_input: [N, H, W, 3], preprocessed already.
        num_layers: how many convolutions to compute; all by default.
        pooled_before: indices of the convolutions that a max-pooling precedes; VGG16's by default.
    """
    x = network_input.astype(np.float64)
    outputs = []
    for index, (kernel, bias) in enumerate(layers[:num_layers]):
        if index in pooled_before:
            n, h, w, c = x.shape
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        # windows: [n, h, w, in, 3, 3]; kernel: [3, 3, in, out].
        x = np.tensordot(windows, kernel.astype(np.float64), axes=((4, 5, 3), (0, 1, 2)))
        x = np.maximum(x + bias, 0)
        outputs.append(x)
    return outputs


def keras_input(images):
    """Keras' VGG16: BGR in 0..255 minus ImageNet's mean colour."""
    rgb = images.astype(np.float64) * 255
    return np.stack([rgb[..., 2] - 103.939, rgb[..., 1] - 116.779, rgb[..., 0] - 123.68], axis=-1)


def torchvision_input(images):
    """As torchvision's models want it: standardised by ImageNet's mean and deviation."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return (images.astype(np.float64) - mean) / deviation

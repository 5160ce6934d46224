"""Parts of noise, for tests that need images of any kind, each told apart by its label."""

import numpy as np

from privynet_jax.images.parts import Part, Parts


def noise_parts(counts, size=16):
    """Part name -> number of images becomes parts whose labels are the images' numbers."""
    rng = np.random.default_rng(0)
    made = {
        name: Part(
            rng.integers(0, 256, (count, size, size, 3), np.uint8), np.arange(count, dtype=np.int32)
        )
        for name, count in counts.items()
    }
    return Parts(**made, class_names=("any",), name="noise", fingerprint="")

"""A small package, by its contract, and folders of pictures: for tests of what a release is."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from privynet_jax.images.parts import as_float
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading
from privynet_jax.platform.rows.coding import peaks_of

CLASSES = ("bird", "cat", "dog")
CLASS_IDS = {name: f"{number:02x}" * 32 for number, name in enumerate(CLASSES)}


@dataclasses.dataclass(frozen=True, eq=False)
class HandmadePackage:
    """The attributes that releasing uses of a `LocalPackage`."""

    image_size: int
    shape: tuple
    class_ids: dict
    peaks: np.ndarray
    release_seed: str
    represent: object
    plan_id: str = "1d" * 32
    reading: Reading = AS_FILES_SAY
    is_signed: bool = False


def handmade_package(image_size=16, depth=5, seed="ab" * 32, gain=1.0):
    """One convolution of stride 2 with a ReLU; its representations are about 1 after scaling."""
    kernel = np.random.default_rng(7).normal(size=(3, 3, 3, depth)).astype(np.float32)

    scales = np.linspace(0.3, 0.9, depth, dtype=np.float32)

    def represent(images):
        outputs = jax.lax.conv_general_dilated(
            as_float(images),
            gain * kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return np.asarray(jax.nn.relu(outputs) * scales)

    side = -(-image_size // 2)
    peaks = peaks_of(4 * np.ones(depth))
    return HandmadePackage(image_size, (side, side, depth), CLASS_IDS, peaks, seed, represent)


def noise(seed, size=16):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)


def fill(folder, counts, size=16):
    """Saves so many pictures of noise per class; returns path -> (uint8 pixels, class name)."""
    saved = {}
    for class_name, count in counts.items():
        (folder / class_name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            path = folder / class_name / f"holiday_{len(saved):03d}.png"
            pixels = noise(1000 + len(saved), size)
            Image.fromarray(pixels).save(path)
            saved[str(path)] = pixels, class_name
    return saved


def contents(folder):
    """File name -> bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

"""Copies are found whatever their format and size; what is merely alike is none."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from privynet_jax.images.copies import groups_of_copies
from privynet_jax.images.parts import read_labelled

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera")


class Stored:
    """A picture that lies in memory."""

    def __init__(self, content):
        self.content = content

    def read_bytes(self):
        return self.content


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Stored(file.getvalue())


def halved(image):
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def photographs():
    return [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: saved(image, "JPEG", quality=95),
        lambda image: saved(image, "JPEG", quality=60),
        lambda image: saved(image, "WEBP", quality=60),
        lambda image: saved(halved(image)),
        lambda image: saved(halved(image), "JPEG", quality=75),
    ],
    ids=["jpeg 95", "jpeg 60", "webp 60", "half", "half, jpeg 75"],
)
def test_copies_in_another_format_or_size_are_found(photographs, copy):
    originals = [saved(image, compress_level=1) for image in photographs]
    count = len(originals)
    groups = groups_of_copies([*originals, *map(copy, photographs)])
    assert groups.tolist() == 2 * list(range(count))


def test_bytes_count_where_nothing_can_be_decoded(photographs):
    broken = [Stored(b"no picture"), saved(photographs[0]), Stored(b"no picture"), Stored(b"")]
    assert groups_of_copies(broken).tolist() == [0, 1, 0, 3]
    assert groups_of_copies([]).shape == (0,)


def gradient(colour, size=64):
    y, x = np.mgrid[:size, :size][..., None] / size - 0.5
    return Image.fromarray(np.uint8(np.round(np.array(colour) + 40 * x + 10 * y)))


def test_smooth_pictures_of_nearly_equal_colours_are_different():
    colours = [(120, 90, 60), (122, 92, 62), (120, 90, 63), (117, 90, 60)]
    assert groups_of_copies([saved(gradient(own)) for own in colours]).tolist() == [0, 1, 2, 3]
    again = [saved(gradient(colours[0])), saved(gradient(colours[0]), "JPEG", quality=75)]
    assert groups_of_copies(again).tolist() == [0, 0]


def film(seed, *, noise, nodule=None, size=256):
    """A smooth grey picture, with fresh noise and maybe a bright disk of radius 8 at (x, y)."""
    stream = np.random.default_rng(seed)
    coarse = Image.fromarray(np.float32(stream.normal(0, 1, (9, 9))))
    pixels = 120 + 45 * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    pixels += np.random.default_rng(noise).normal(0, 3, pixels.shape)
    if nodule is not None:
        y, x = np.mgrid[:size, :size]
        pixels += 60 * ((x - nodule[0]) ** 2 + (y - nodule[1]) ** 2 < 8**2)
    return Image.fromarray(np.uint8(np.clip(pixels, 0, 255)))


def test_a_film_with_a_nodule_is_another_picture():
    films = [film(seed, noise=seed) for seed in range(6)]
    found = [film(seed, noise=50 + seed, nodule=(90 + 9 * seed, 130)) for seed in range(6)]
    again = [saved(each, "JPEG", quality=75) for each in (*films, *found)]
    groups = groups_of_copies([*map(saved, (*films, *found)), *again])
    assert groups.tolist() == 2 * list(range(12))


def test_slices_and_frames_of_a_series_are_no_copies():
    y, x = np.mgrid[:128, :128] / 127 - 0.5
    stream = np.random.default_rng(0)

    def body(organ):
        inside = 10 + 90.0 * ((x / 0.45) ** 2 + (y / 0.35) ** 2 < 1) + 70 * organ
        return saved(Image.fromarray(np.uint8(inside + stream.normal(0, 4, x.shape).clip(-9, 9))))

    slices = [
        body((x / (0.08 + 0.1 * t)) ** 2 + (y / (0.05 + 0.1 * t)) ** 2 < 1)
        for t in np.linspace(0, 1, 40)
    ]
    frames = [body((x - t) ** 2 / 0.002 + y**2 / 0.01 < 1) for t in np.linspace(0, 0.3, 40)]
    for series in (slices, frames):
        assert groups_of_copies(series).tolist() == list(range(40))


def test_small_changes_do_not_chain():
    series = [saved(gradient((120 + n / 2, 90, 60))) for n in range(40)]
    assert len(np.unique(groups_of_copies(series))) > 5


def test_many_nearly_black_pictures_take_no_long():
    stream = np.random.default_rng(0)
    dark = np.uint8(np.clip(6 + stream.normal(0, 0.5, (500, 64, 64)), 0, 255))
    assert not groups_of_copies([saved(Image.fromarray(pixels)) for pixels in dark]).any()


def test_neighbouring_patches_of_one_photograph_are_different(test_data_dir, photo_parts):
    del photo_parts  # so that they are there
    train = read_labelled("photo_patches", test_data_dir).train
    near = np.flatnonzero(np.isin(train.groups, np.unique(train.groups)[:40]))
    groups = groups_of_copies([train.images[n] for n in near])
    # But for a few that overlap along a straight edge in front of a plain sky.
    assert len(near) > len(np.unique(groups)) > 0.99 * len(near) > 1000
    assert (train.groups[near] == train.groups[near][groups]).all()


@pytest.mark.parametrize(
    ("copy", "least", "most"),
    [
        (lambda image: saved(image, "JPEG", quality=95), 0.99, 1),
        (lambda image: saved(image, "JPEG", quality=60), 0.95, 1),
        (lambda image: saved(halved(image)), 0.7, 0.95),  # a known limit
    ],
    ids=["jpeg 95", "jpeg 60", "half"],
)
def test_how_many_copies_of_small_patches_are_found(test_data_dir, photo_parts, copy, least, most):
    del photo_parts  # so that they are there
    train = read_labelled("photo_patches", test_data_dir).train
    one_per_cell = np.unique(train.groups, return_index=True)[1]
    contents = [train.images[n].read_bytes() for n in one_per_cell]
    patches = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    groups = groups_of_copies([*map(saved, patches), *map(copy, patches)])
    count = len(patches)
    assert groups[:count].tolist() == list(range(count))
    assert least <= (groups[count:] == np.arange(count)).mean() <= most

"""A release of few handmade pictures: how tests find, write and spoil them."""

from privynet_jax.deployment.release.extract_release import write_release
from privynet_jax.deployment.release.release_inputs import find_pictures
from support.handmade_package import CLASSES

COUNTS = {"bird": 5, "cat": 9, "dog": 8}


ROWS = sum(COUNTS.values())


def find(folder, labelled=True, **options):
    return find_pictures(f"folder:{folder}", class_names=CLASSES, labelled=labelled, **options)


def write(package, folder, out, labelled=True, **options):
    return write_release(out, package, find(folder, labelled), **options)


def spoil(photos, *names):
    for name in names:
        (photos / name).write_bytes(b"no picture, " + name.encode())

"""Folders of pictures that are no good: the command says which, in one line, and writes nothing."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.commands import refused
from support.tiny_runs import TINY, flags_of, places_in

from experiments import characterize


def _half_a_jpeg(folder):
    path = folder / "cats" / "3.jpg"
    with Image.open(folder / "cats" / "3.png") as image:
        image.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _bomb_in_a_text_chunk(folder):
    text = PngInfo()
    text.add_text("comment", "0" * 2**26, zip=True)
    with Image.open(folder / "cats" / "5.png") as image:
        image.load()
        image.save(folder / "cats" / "5.png", pnginfo=text)


def _name_in_two_lines(folder):
    (folder / "dogs" / "two\nlines.png").write_bytes(b"")


def _name_of_odd_bytes(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/dogs/\xff\xfe.png")).write_bytes(b"")


def _class_of_hidden_files(folder):
    (folder / "birds").mkdir()
    (folder / "birds" / ".DS_Store").write_bytes(b"whatever")


def _class_of_a_linked_folder(folder):
    """A link that leads round in circles is followed once, and shows nothing new."""
    (folder / "birds").mkdir()
    (folder / "birds" / "more").symlink_to(folder / "birds")


def _link_to_nothing(folder):
    (folder / "dogs" / "9.png").symlink_to(folder / "gone.png")


def _class_that_is_a_link_to_nothing(folder):
    (folder / "birds").symlink_to(folder / "gone")


def _only_copies(folder):
    for path in (folder / "dogs").iterdir():
        path.write_bytes((folder / "dogs" / "0.png").read_bytes())


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_link_to_nothing, ["dogs/9.png is a link to nothing"]),
        (_class_that_is_a_link_to_nothing, ["holds the file birds where one subfolder"]),
        (_half_a_jpeg, ["cats/3.jpg: it is damaged", "runcated"]),
        (_bomb_in_a_text_chunk, ["cats/5.png: it is damaged"]),
        (_name_in_two_lines, ["dogs/two lines.png: the file is empty"]),
        (_name_of_odd_bytes, [".png: the file is empty"]),
        (_class_of_hidden_files, ["birds holds no pictures"]),
        (_class_of_a_linked_folder, ["birds holds no pictures"]),
        (_only_copies, ["dogs has 1", "different pictures"]),
    ],
)
def test_folders_of_pictures(tmp_path, test_data_dir, run_command, damage, expected):
    folder = tmp_path / "pictures"
    noise = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for index in range(8):
            pixels = noise.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    damage(folder)
    places = places_in(tmp_path, test_data_dir)
    arguments = {**places, **TINY, "max_images": "", "dataset": f"folder:{folder}"}
    refused(run_command(characterize, *flags_of(arguments)), *expected)
    assert list(tmp_path.iterdir()) == [folder]

"""Folders of pictures that are no good: the command says which, in one line, and writes nothing."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.commands import refused
from support.tiny_runs import TINY, flags_of, places_in

from experiments import characterize


def _zero_byte_jpeg(folder):
    (folder / "cats" / "7.jpg").write_bytes(b"")


def _half_a_jpeg(folder):
    path = folder / "cats" / "3.jpg"
    with Image.open(folder / "cats" / "3.png") as image:
        image.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _bomb(folder):
    """A PNG whose header, checksum and all, declares 60,000 x 60,000 pixels."""
    path = folder / "cats" / "5.png"
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def _bomb_in_a_text_chunk(folder):
    text = PngInfo()
    text.add_text("comment", "0" * 2**26, zip=True)
    with Image.open(folder / "cats" / "5.png") as image:
        image.load()
        image.save(folder / "cats" / "5.png", pnginfo=text)


def _float_tiff(folder):
    Image.fromarray(np.ones((40, 40), np.float32)).save(folder / "cats" / "depth.tif")


def _text_called_png(folder):
    (folder / "dogs" / "0.png").write_text("feed at noon")


def _name_in_two_lines(folder):
    (folder / "dogs" / "two\nlines.png").write_bytes(b"")


def _name_of_odd_bytes(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/dogs/\xff\xfe.png")).write_bytes(b"")


def _half_a_png(folder):
    path = folder / "cats" / "3.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _no_picture(folder):
    (folder / "dogs" / "notes.txt").write_text("feed at noon")


def _loose_file(folder):
    (folder / "notes.csv").write_text("cats,dogs")


def _one_image_class(folder):
    (folder / "birds").mkdir()
    (folder / "cats" / "0.png").rename(folder / "birds" / "0.png")


def _one_class(folder):
    shutil.rmtree(folder / "dogs")


def _class_without_files(folder):
    (folder / "birds").mkdir()


def _class_of_hidden_files(folder):
    (folder / "birds").mkdir()
    (folder / "birds" / ".DS_Store").write_bytes(b"whatever")


def _class_of_a_linked_folder(folder):
    """Links to folders are not followed inside a class, so that none leads round in circles."""
    (folder / "birds").mkdir()
    (folder / "birds" / "more").symlink_to(folder / "birds")


def _link_to_nothing(folder):
    (folder / "dogs" / "9.png").symlink_to(folder / "gone.png")


def _class_that_is_a_link_to_nothing(folder):
    (folder / "birds").symlink_to(folder / "gone")


def _unknown_class_in_test(folder):
    for name in ("cats", "dogs"):
        (folder / "train").mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
    shutil.copytree(folder / "train" / "cats", folder / "test" / "lions")


def _file_instead(folder):
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def _only_copies(folder):
    for path in (folder / "dogs").iterdir():
        path.write_bytes((folder / "dogs" / "0.png").read_bytes())


def _empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_zero_byte_jpeg, ["cats/7.jpg: the file is empty", "--skip_unreadable"]),
        (_link_to_nothing, ["dogs/9.png is a link to nothing"]),
        (_class_that_is_a_link_to_nothing, ["holds the file birds where one subfolder"]),
        (_half_a_png, ["cats/3.png: it is damaged"]),
        (_half_a_jpeg, ["cats/3.jpg: it is damaged", "runcated"]),
        (_bomb, ["cats/5.png: it has over 150,000,000 pixels; shrink it"]),
        (_bomb_in_a_text_chunk, ["cats/5.png: it is damaged"]),
        (_float_tiff, ["cats/depth.tif: it has floating-point values"]),
        (_text_called_png, ["dogs/0.png: it is no image that Pillow knows"]),
        (_name_in_two_lines, ["dogs/two lines.png: the file is empty"]),
        (_name_of_odd_bytes, [".png: the file is empty"]),
        (_no_picture, ["dogs/notes.txt: it is no image that Pillow knows"]),
        (_loose_file, ["the file notes.csv where one subfolder per class is expected"]),
        (_one_image_class, ["birds has 1", "at least 4"]),
        (_one_class, ["the one class cats", "at least 2"]),
        (_class_without_files, ["birds holds no pictures"]),
        (_class_of_hidden_files, ["birds holds no pictures"]),
        (_class_of_a_linked_folder, ["birds holds no pictures"]),
        (_unknown_class_in_test, ["test has classes that train has not: lions"]),
        (_file_instead, ["pictures is no folder"]),
        (_only_copies, ["dogs has 1", "different pictures"]),
        (_empty, ["holds nothing where one subfolder per class is expected"]),
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

"""Folders of unlabelled pictures as a stream: order, sizes, what is kept in memory, bad files."""

import itertools
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privynet_jax.errors import UserError
from privynet_jax.images.folders import list_pictures
from privynet_jax.images.unlabelled import stream_pictures

SIZE = 12


def fill(folder, names, photo_parts):
    """Saves patches of photographs under names; returns name -> uint8 [32, 32, 3]."""
    saved = {}
    for index, name in enumerate(names):
        saved[name] = photo_parts.target.images[index]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(saved[name]).save(path)
    return saved


def stream(folder, image_size=32, batch_size=4, skip_unreadable=False):
    return stream_pictures(folder, image_size, batch_size, skip_unreadable=skip_unreadable)


def test_pictures_come_unchanged_in_the_order_of_their_names(tmp_path, photo_parts):
    saved = fill(tmp_path, ["c.png", "a.bmp", "e.png", "b.png", "d.png"], photo_parts)
    batches = list(stream(tmp_path, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert {batch.dtype for batch in batches} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(np.concatenate(batches), [saved[name] for name in sorted(saved)])


def test_subfolders_are_included_and_hidden_files_are_not(tmp_path, photo_parts):
    names = ["2024/b.png", "2024/trip/a.png", "2025/a.png", "z.png"]
    saved = fill(tmp_path, names, photo_parts)
    (tmp_path / ".DS_Store").write_bytes(b"no picture")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "t.png").write_bytes(b"no picture")
    (tmp_path / "2025" / "everything").symlink_to(tmp_path)
    [batch] = stream(tmp_path)
    np.testing.assert_array_equal(batch, [saved[name] for name in names])
    # Which picture is where can be told from the list of files.
    assert [path.relative_to(tmp_path).as_posix() for path in list_pictures(tmp_path)] == names


def test_pictures_of_any_shape_are_cropped_resized_and_rgb(tmp_path):
    grey = np.zeros((40, 90), np.uint8)
    grey[:, 25:65] = 200  # the central square
    Image.fromarray(grey).save(tmp_path / "grey.png")
    [batch] = stream(tmp_path, image_size=SIZE)
    np.testing.assert_array_equal(batch, np.full((1, SIZE, SIZE, 3), 200))


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 6), (3, [3, 3]), (4, [4, 2]), (6, [6]), (10**12, [6])]
)
def test_sizes_of_batches(tmp_path, photo_parts, batch_size, sizes):
    fill(tmp_path, [f"{index}.png" for index in range(6)], photo_parts)
    assert [len(batch) for batch in stream(tmp_path, batch_size=batch_size)] == sizes


def test_one_batch_is_read_and_kept_at_a_time(tmp_path, photo_parts, monkeypatch):
    fill(tmp_path, [f"{index:02d}.png" for index in range(12)], photo_parts)
    read, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))
    batches = stream(tmp_path, batch_size=3)
    assert not read
    for number in itertools.count(1):
        batch = next(batches, None)
        if batch is None:
            break
        assert len(read) == 3 * number
        alive = weakref.ref(batch)
        del batch
        assert alive() is None
    assert number == 5


def test_batches_that_are_kept_do_not_change(tmp_path, photo_parts):
    saved = fill(tmp_path, ["a.png", "b.png", "c.png"], photo_parts)
    kept = list(stream(tmp_path, batch_size=1))
    np.testing.assert_array_equal(np.concatenate(kept), list(saved.values()))


def test_an_unreadable_picture_is_named_after_the_batches_before_it(tmp_path, photo_parts):
    fill(tmp_path, ["a.png", "b.png", "d.png"], photo_parts)
    (tmp_path / "c.jpg").write_bytes(b"")
    batches = stream(tmp_path, batch_size=2)
    assert len(next(batches)) == 2
    with pytest.raises(
        UserError, match=r"cannot use .*c\.jpg: the file is empty; repair"
    ) as caught:
        next(batches)
    assert "--skip_unreadable" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_skipped_pictures_are_counted_once_at_the_end(tmp_path, photo_parts, caplog):
    saved = fill(tmp_path, ["a.png", "c.png", "e.png", "f.png"], photo_parts)
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "d.txt").write_text("feed at noon")
    batches = stream(tmp_path, batch_size=3, skip_unreadable=True)
    first = next(batches)
    assert not caplog.records
    rest = list(batches)
    assert [len(first), *map(len, rest)] == [3, 1]  # skipping leaves no gaps in batches
    np.testing.assert_array_equal(np.concatenate([first, *rest]), list(saved.values()))
    [record] = caplog.records
    assert record.getMessage() == f"skipped 2 unreadable images of the folder {tmp_path}"


def test_a_folder_without_one_readable_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"text")
    with pytest.raises(UserError, match="no picture that can be read; all 2 were skipped"):
        list(stream(tmp_path, skip_unreadable=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size of at least 1, got 0"),
        ({}, "holds no pictures"),
    ],
)
def test_mistakes_are_told_at_the_call(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        stream(tmp_path, **arguments)


def test_a_file_or_nothing_instead_of_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for path in (tmp_path / "a.png", tmp_path / "missing"):
        with pytest.raises(UserError, match="is no folder"):
            stream(path)

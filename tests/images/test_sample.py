"""The user's own pictures: which are drawn, and how they are known again."""

import dataclasses
import hashlib
import logging

import numpy as np
import pytest
from PIL import Image
from support.picture_files import fill
from support.tiny_dataset import prepare, tiny_builder

from privynet_jax.errors import UserError
from privynet_jax.images import decoding
from privynet_jax.images.parts import load_parts
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.images.sample import digest_of, drop_seen_pictures, load_sample
from privynet_jax.platform.progress import Bar


def load(folder, **options):
    settings = {"data_dir": None, "image_size": 8, "count": 12, **options}
    return load_sample(f"folder:{folder}", **settings)


def test_pictures_and_labels_belong_together(tmp_path):
    fill(tmp_path, {"ant": 20, "bee": 20})
    sample = load(tmp_path)
    assert (sample.images.shape, sample.images.dtype) == ((12, 8, 8, 3), np.uint8)
    assert (sample.labels.dtype, sample.class_names) == (np.int32, ("ant", "bee"))
    known = {
        digest_of(decode_picture(path.read_bytes(), 8)): name
        for name in ("ant", "bee")
        for path in (tmp_path / name).iterdir()
    }
    assert len(set(sample.digests)) == len(sample) == 12
    names = [sample.class_names[label] for label in sample.labels]
    assert [known[digest] for digest in sample.digests] == names
    for image, digest in zip(sample.images, sample.digests, strict=True):
        assert digest == hashlib.sha256(image.tobytes()).hexdigest()[:16]


def test_classes_are_as_equal_as_possible(tmp_path):
    fill(tmp_path, {"common": 30, "rare": 4, "usual": 10})
    sample = load(tmp_path, count=18)
    assert np.bincount(sample.labels).tolist() == [7, 4, 7]


def test_the_same_pictures_are_drawn_again(tmp_path):
    fill(tmp_path, {"a": 30, "b": 30})
    first, again = load(tmp_path), load(tmp_path)
    np.testing.assert_array_equal(first.images, again.images)
    assert first.digests == again.digests


def test_fewer_pictures_than_asked_for_are_all_used(tmp_path):
    fill(tmp_path, {"a": 5, "b": 6})
    assert len(set(load(tmp_path, count=500).digests)) == 11


def test_the_usual_number_leaves_two_thirds_of_each_class(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 30, "b": 7, "c": 4, "d": 5})
    sample = load(tmp_path, count=None)
    assert np.bincount(sample.labels).tolist() == [10, 2, 2, 2]
    assert sample.available == 46
    monkeypatch.setattr("privynet_jax.images.sample.USUAL", 9)
    assert np.bincount(load(tmp_path, count=None).labels).tolist() == [3, 2, 2, 2]
    # Others of the class take the place of what cannot be decoded.
    for index in range(10):
        (tmp_path / "a" / f"x{index}.png").write_bytes(b"no picture %d" % index)
    monkeypatch.setattr("privynet_jax.images.sample.USUAL", 500)
    skipping = load(tmp_path, count=None, skip_unreadable=True)
    assert np.bincount(skipping.labels).tolist() == [13, 2, 2, 2]


def test_pictures_of_a_test_split_are_left_alone(tmp_path):
    fill(tmp_path / "train", {"a": 6, "b": 6})
    fill(tmp_path / "test", {"a": 6, "b": 6}, seed=1)
    parts = load_parts(f"folder:{tmp_path}", data_dir=None, image_size=8)
    digests = set(load(tmp_path, count=500).digests)
    assert len(digests) == 12
    # As an audit will know them again, decoded by another room.
    assert not digests & set(map(digest_of, parts.test.images))
    assert set(map(digest_of, parts.target.images)) <= digests


def test_a_tfds_data_set(tmp_path):
    prepare(tiny_builder("tiny_sample", {"train": 12, "test": 6}), tmp_path)
    sample = load_sample("tiny_sample", data_dir=tmp_path, image_size=4, count=9)
    assert sample.class_names == ("dark", "grey", "bright")
    np.testing.assert_array_equal(sample.images[:, 0, 0, 0], 50 * sample.labels)


def test_unreadable_pictures(tmp_path, caplog, monkeypatch):
    fill(tmp_path, {"a": 8, "b": 8})
    for name in ("a", "b"):
        (tmp_path / name / "zzz.png").write_bytes(b"no picture of " + name.encode())
    with pytest.raises(UserError, match=r"cannot use .*zzz\.png.*--skip_unreadable"):
        load(tmp_path, count=500)
    bars = []
    monkeypatch.setattr(decoding, "Bar", lambda **given: bars.append(Bar(**given)) or bars[-1])
    with caplog.at_level(logging.WARNING):
        sample = load(tmp_path, count=500, skip_unreadable=True)
    assert len(sample) == 16
    assert [(bar.n, bar.total) for bar in bars] == [(18, 18)]
    assert "skipped 2 unreadable images of the sample" in caplog.text
    # Others are drawn in their place.
    for count in range(10, 15):
        assert len(load(tmp_path, count=count, skip_unreadable=True)) == count
        assert bars[-1].n == bars[-1].total == count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"count": 0}, "sample_images is 0; allowed are 1 to"),
        ({"count": 10**6}, "sample_images is 1000000"),
        ({"count": 5}, r"has 1 pictures of the class [abc].*--sample_images=6"),
        ({"count": 2}, r"has 0 pictures of the class [abc]"),
    ],
)
def test_bad_arguments(tmp_path, options, expected):
    fill(tmp_path, {"a": 5, "b": 5, "c": 5})
    with pytest.raises(UserError, match=expected):
        load(tmp_path, **options)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        load(tmp_path / "missing")


def test_a_sample_says_how_it_was_decoded(tmp_path):
    fill(tmp_path, {"a": 5, "b": 5})
    assert load(tmp_path, reading=Reading(4095)).reading == Reading(4095)


def test_only_decoded_pictures_have_digests():
    with pytest.raises(ValueError, match="uint8"):
        digest_of(np.zeros((2, 2, 3), np.float32))
    reversed_view = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)[::-1]
    assert digest_of(reversed_view) == digest_of(reversed_view.copy())


def test_exactly_the_sample_is_removed(audited_parts):
    test = audited_parts.test
    doubled = type(test)(np.concatenate([test.images, test.images[:1]]), np.append(test.labels, 1))
    parts = dataclasses.replace(audited_parts, test=doubled)
    # A picture that is there twice goes twice.
    rows = {"target": [0, 3], "auxiliary": [1], "validation": [], "test": [0, 2, len(test)]}
    seen = [digest_of(part.images[row]) for name, part in parts.items() for row in rows[name]]
    kept, removed = drop_seen_pictures(parts, [*seen, "0" * 16])
    assert removed == 6
    for name, part in parts.items():
        others = np.delete(np.arange(len(part)), rows[name])
        np.testing.assert_array_equal(getattr(kept, name).images, part.images[others])
        np.testing.assert_array_equal(getattr(kept, name).labels, part.labels[others])
    assert (kept.name, kept.class_names) == (parts.name, parts.class_names)


def test_copies_of_the_sample_go_with_it(audited_parts):
    test = audited_parts.test
    groups = np.arange(len(test))
    groups[[1, 5]] = 1  # saved again, and so of another digest
    parts = dataclasses.replace(
        audited_parts, test=type(test)(test.images, test.labels, groups), fingerprint="0"
    )
    kept, removed = drop_seen_pictures(parts, [digest_of(test.images[5])])
    others = np.delete(np.arange(len(test)), [1, 5])
    assert removed == 2
    np.testing.assert_array_equal(kept.test.images, test.images[others])
    np.testing.assert_array_equal(kept.test.groups, groups[others])


def test_copies_go_where_a_limit_left_the_seen_pictures_out(tmp_path):
    stream = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(20):
            coarse = stream.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse.repeat(24, 0).repeat(24, 1))
            picture.save(tmp_path / name / f"{index:02d}.png")
            picture.save(tmp_path / name / f"{index:02d}x.jpg", quality=90)  # the same, saved again
    sample = load(tmp_path, count=8)
    seen = set(sample.groups.tolist())
    assert len(sample.digests) == 2 * len(seen)
    limits = {"target": 8, "auxiliary": 8, "validation": 4, "test": 6}
    given = {"data_dir": None, "image_size": 8, "max_images": limits}
    mixed = 0
    for seed in range(4):
        parts = load_parts(f"folder:{tmp_path}", seed=seed, **given)
        kept, _ = drop_seen_pictures(parts, sample.digests)
        assert not any(seen & set(part.groups.tolist()) for _, part in kept.items())
        before, _ = drop_seen_pictures(parts, sample.digests[: len(sample)])
        mixed += sum(len(seen & set(part.groups.tolist())) for _, part in before.items())
    assert mixed  # the sample's own digests miss copies


def test_caches_tell_apart_what_is_left_of_the_same_parts(audited_parts):
    first, second = (digest_of(image) for image in audited_parts.test.images[:2])
    found = [
        drop_seen_pictures(audited_parts, seen)[0].fingerprint
        for seen in ([], ["0" * 16], [first], [second], [first, second], [second, first])
    ]
    assert found[:2] == [audited_parts.fingerprint] * 2
    assert found[4] == found[5]  # the order of a sample says nothing about pictures
    assert len(set(found)) == 4


def test_a_part_may_not_lose_everything(audited_parts):
    seen = [digest_of(image) for image in audited_parts.validation.images]
    with pytest.raises(UserError, match="saw all pictures of the part validation of folder:"):
        drop_seen_pictures(audited_parts, seen)

"""TFDS's own builders of CIFAR and MNIST, from real archives in their formats, without a network.

The archives hold patches of photographs. They lie where TFDS keeps what it has downloaded, and
their checksums stand in for the published ones; all else runs as for the published files, from the
extraction by TFDS to the four parts. TFDS prepares these sets with TensorFlow, so it is needed.
"""

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums, downloader, resource

from privynet_jax.errors import UserError
from privynet_jax.images.parts import load_parts

pytest.importorskip("tensorflow", reason="TFDS prepares CIFAR and MNIST with TensorFlow: .[tf]")

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
# In the order of the published batches.meta.txt.
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
TRAIN_PARTS = ("target", "auxiliary", "validation")
READ_WITHOUT_TENSORFLOW = """
import importlib.machinery, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "tensorflow" else super().find_spec(name, path, target)

sys.meta_path = [Finder if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
from privynet_jax.images.parts import load_parts
print(load_parts("cifar10", data_dir=sys.argv[1]).fingerprint)
assert "tensorflow" not in sys.modules
"""


@pytest.fixture
def place_downloads(tmp_path, monkeypatch):
    """Puts files where TFDS looks before it downloads: (data set, address -> content) -> None."""

    def place(dataset, contents):
        infos = {}
        for url, content in contents.items():
            name, sha256 = url.rpartition("/")[2], hashlib.sha256(content).hexdigest()
            infos[url] = checksums.UrlInfo(tfds.core.utils.Size(len(content)), sha256, name)
            path = tmp_path / "downloads" / dataset / resource.get_dl_fname(url, sha256)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            resource.write_info_file(url, path, dataset, name, infos[url])
        monkeypatch.setattr(tfds.builder_cls(dataset), "url_infos", infos)

    def refuse(self, url, *args):
        pytest.fail(f"asks the network for {url}")

    monkeypatch.setattr(downloader._Downloader, "download", refuse)
    return place


def archive(files):
    """The bytes of a .tar.gz of name -> content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def cifar_records(images, *labels):
    """Label bytes, then the red, the green and the blue plane, image by image."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    records = np.hstack([*(np.uint8(column)[:, None] for column in labels), planes])
    assert records.shape[1] == len(labels) + 3072
    return records.tobytes()


def cifar10_archive(train, test):
    """The binary version of CIFAR-10; train's records are spread over its five files."""
    files = {"batches.meta.txt": "\n".join([*CLASSES, "", ""]).encode()}
    for number, rows in enumerate(np.array_split(np.arange(len(train[1])), 5), start=1):
        files[f"data_batch_{number}.bin"] = cifar_records(train[0][rows], train[1][rows])
    files["test_batch.bin"] = cifar_records(*test)
    return archive({f"cifar-10-batches-bin/{name}": data for name, data in files.items()})


@pytest.fixture
def pictures(photo_parts):
    """uint8 [n, 32, 32, 3] patches, all different, and made-up labels that go round."""

    def take(start, count, classes):
        images = photo_parts.target.images[start : start + count]
        assert len({image.tobytes() for image in images}) == count
        return images, np.arange(count, dtype=np.int32) * 7 % classes

    return take


def labelled(images, labels):
    """A comparable form of a part: what it holds, whatever the order."""
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def assert_parts_hold(parts, train, test):
    """The three parts of train share nothing and are train together; the test part is test."""
    found = []
    for name in TRAIN_PARTS:
        part = getattr(parts, name)
        assert len(part)
        found += labelled(part.images, part.labels)
    assert sorted(found) == labelled(*train)  # each picture is there exactly once
    assert labelled(parts.test.images, parts.test.labels) == labelled(*test)


def test_cifar10(tmp_path, place_downloads, pictures):
    train, test = pictures(0, 118, 10), pictures(118, 40, 10)
    place_downloads("cifar10", {CIFAR10_URL: cifar10_archive(train, test)})
    parts = load_parts("cifar10", data_dir=tmp_path)
    assert parts.class_names == CLASSES
    assert parts.target.images.shape[1:] == (32, 32, 3)
    assert_parts_hold(parts, train, test)
    for name in TRAIN_PARTS:
        assert len(np.unique(getattr(parts, name).labels)) == 10

    # What is prepared is in the format that reads without TensorFlow, and does.
    assert list((tmp_path / "cifar10" / "3.0.2").glob("cifar10-train.array_record*"))
    command = [sys.executable, "-c", READ_WITHOUT_TENSORFLOW, str(tmp_path)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert again.stdout.strip() == parts.fingerprint


def test_cifar100_has_its_fine_labels(tmp_path, place_downloads, pictures):
    train, test = pictures(0, 400, 100), pictures(400, 100, 100)
    fine, coarse = [f"fine {i}" for i in range(100)], [f"coarse {i}" for i in range(20)]
    files = {
        "coarse_label_names.txt": "\n".join(coarse).encode(),
        "fine_label_names.txt": "\n".join(fine).encode(),
        "train.bin": cifar_records(train[0], train[1] // 5, train[1]),
        "test.bin": cifar_records(test[0], test[1] // 5, test[1]),
    }
    files = {f"cifar-100-binary/{name}": content for name, content in files.items()}
    place_downloads("cifar100", {CIFAR100_URL: archive(files)})
    parts = load_parts("cifar100", data_dir=tmp_path)
    assert parts.class_names == tuple(fine)
    assert_parts_hold(parts, train, test)


def test_greyscale_mnist_becomes_rgb_of_the_size_asked_for(
    tmp_path, place_downloads, pictures, monkeypatch
):
    mnist = sys.modules[tfds.builder_cls("mnist").__module__]
    splits = {"train": pictures(0, 60, 10), "t10k": pictures(60, 20, 10)}
    splits = {name: (images[:, 2:30, 2:30, 1], labels) for name, (images, labels) in splits.items()}
    contents = {}
    for name, (images, labels) in splits.items():
        header = struct.pack(">IIII", 0x803, len(images), 28, 28)
        files = {
            "images-idx3": header + images.tobytes(),
            "labels-idx1": struct.pack(">II", 0x801, len(labels)) + np.uint8(labels).tobytes(),
        }
        for kind, content in files.items():
            contents[f"{MNIST_URL}{name}-{kind}-ubyte.gz"] = gzip.compress(content)
    place_downloads("mnist", contents)
    # This builder does not ask the files how many images they hold.
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 60)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 20)

    as_rgb = {n: (np.repeat(x[..., None], 3, axis=-1), y) for n, (x, y) in splits.items()}
    parts = load_parts("mnist", data_dir=tmp_path, image_size=28)
    assert parts.class_names == tuple("0123456789")
    assert_parts_hold(parts, as_rgb["train"], as_rgb["t10k"])

    def resized(image):
        return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS))

    larger = {n: (np.stack([resized(image) for image in x]), y) for n, (x, y) in as_rgb.items()}
    parts = load_parts("mnist", data_dir=tmp_path, image_size=32)
    assert_parts_hold(parts, larger["train"], larger["t10k"])


def test_a_damaged_download_is_one_line_and_nothing_is_prepared(
    tmp_path, place_downloads, pictures
):
    whole = cifar10_archive(pictures(0, 50, 10), pictures(50, 10, 10))
    place_downloads("cifar10", {CIFAR10_URL: whole[: len(whole) // 2]})
    with pytest.raises(UserError, match=r"cannot prepare cifar10 in .*end") as caught:
        load_parts("cifar10", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "downloads") in str(caught.value)
    assert not (tmp_path / "cifar10" / "3.0.2").exists()

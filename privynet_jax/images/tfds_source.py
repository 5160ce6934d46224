"""Opens, prepares and reads a TensorFlow Datasets (TFDS) data set, without TensorFlow.

    dataset = read_dataset("photo_patches", data_dir=folder)
    dataset.train.images[0]  # one image's bytes, still encoded as PNG or JPEG

TFDS reads without TensorFlow what is stored as `array_record`, and whatever it raises becomes a
line for the user here.
"""

import contextlib
import dataclasses
import difflib
import errno
import hashlib
import importlib.util
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils
from tensorflow_datasets.proto import tf_example_pb2

from privynet_jax.errors import UserError, first_line
from privynet_jax.images import photo_patches
from privynet_jax.images.copies import copies_of_tests, firsts_of
from privynet_jax.images.decoding import EncodedDataset, EncodedSplit
from privynet_jax.images.partition import joined
from privynet_jax.platform.files import expanded, is_remote
from privynet_jax.platform.progress import Bar

_FILE_FORMAT = "array_record"
# Examples that share this integer feature overlap and must stay together.
_GROUP_FEATURE = "cell"
_CLASS_IS_SOURCE = frozenset({"photo_patches"})
_AT_ONCE = 256  # examples that are read together
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS)


def decoded_folder(data_dir: Path | str | None) -> Path | None:
    """Returns where decoded pictures are kept, beside TFDS's data sets; see `picture_cache`.

    None where that is a bucket, which others may read.
    """
    beside = str(data_dir or tfds.core.constants.DATA_DIR)
    return None if is_remote(beside) else expanded("data_dir", beside) / "decoded_pictures"


def read_dataset(
    dataset: str, data_dir: Path | str | None, *, in_parts: bool = True
) -> EncodedDataset:
    """Returns a data set's train split and its test split, preparing the data set where needed.

    The test split is the one named test, else validation: the first that has labelled examples. A
    data set is what `tfds.builder` accepts, and has supervised keys that are an image and a class
    label. TFDS keeps prepared data sets in `data_dir`; None is its default. With `in_parts`, copies
    are kept out of two parts as `folders` does it, but only those whose stored bytes are equal:
    what a builder encodes itself, it encodes alike.

    Raises:
        UserError: unknown or unsuitable data set, it cannot be prepared (no network; TensorFlow
            needed but absent), or its files are damaged.
        OSError: the disk is full, or data_dir may not be written to, while it is prepared.
    """
    with _quiet():
        builder = _prepared_builder(dataset, data_dir)
        if "train" not in builder.info.splits:
            splits = ", ".join(builder.info.splits)
            raise UserError(f"{dataset} has no split train; it has {splits}; choose another one")
        train, test = _read_split(builder, "train"), None
        for name in ("test", "validation"):
            # Published test splits may hide their labels, which leaves nothing here.
            if not test and name in builder.info.splits:
                test = _read_split(builder, name)
                test = test if test.digests else None
    _, label_key = builder.info.supervised_keys
    splits = _apart(train, test) if in_parts else (train.split, test and test.split)
    names = tuple(builder.info.features[label_key].names)
    return EncodedDataset(*splits, names, builder.name in _CLASS_IS_SOURCE)


def read_feature(
    dataset: str, data_dir: Path | str | None, feature: str
) -> Iterator[tuple[bytes, int]]:
    """Yields (encoded image, value) of a whole-number feature, of every example of every split.

    UserError where the data set has no such feature, and as for `read_dataset`.
    """
    with _quiet():
        builder = _prepared_builder(dataset, data_dir)
        known = _whole_numbers(builder.info)
        if feature not in known:
            raise UserError(
                f"{dataset} has no whole number {feature!r} per image; it has {', '.join(known)}"
            )
        splits = [_Examples(builder, name, [feature]) for name in builder.info.splits]
    for examples in splits:
        for example in examples:
            yield example[examples.image_key], example[feature]


def _prepared_builder(dataset: str, data_dir: Path | str | None) -> tfds.core.DatasetBuilder:
    builder = _builder(dataset, data_dir)
    if not builder.is_prepared():
        _prepare(builder, dataset)
        builder = _builder(dataset, data_dir)  # one that knows what was written
    stored = sorted(file_format.value for file_format in builder.info.available_file_formats())
    if _FILE_FORMAT not in stored:
        raise UserError(
            f"{dataset} is prepared in {builder.data_dir} as {', '.join(stored)}; expected "
            f"{_FILE_FORMAT}: give another data_dir, or delete that folder"
        )
    _check_features(builder.info, dataset)
    return builder


def _builder(dataset: str, data_dir: Path | str | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(dataset, known, n=5) or [photo_patches.PhotoPatches.name]
        reason = f"the closest names are {', '.join(close)}"
    except Exception as error:  # TFDS raises many types for a bad version, config or folder
        reason = first_line(error)
    if Path(dataset).is_dir():
        reason = f"a folder is given as folder:{dataset}"
    raise UserError(
        f"cannot open the data set {dataset!r}: {reason}; allowed are TFDS data sets by name, and "
        f"what is prepared in the data_dir, here {data_dir or 'the default'}"
    )


def _prepare(builder: tfds.core.DatasetBuilder, dataset: str) -> None:
    where = builder.data_dir_root
    needs_tensorflow = UserError(
        f"preparing {dataset} needs TensorFlow: pip install 'privynet_jax[tf]', or prepare it on "
        f"another machine as {_FILE_FORMAT} and copy its folder into {where}"
    )
    # TFDS notices that TensorFlow is missing only after the download, so look first.
    is_tfds_own = type(builder).__module__.startswith("tensorflow_datasets.")
    if is_tfds_own and importlib.util.find_spec("tensorflow") is None:
        raise needs_tensorflow
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with Bar(total=1, desc=f"preparing {dataset}", unit="data set") as progress:
            builder.download_and_prepare(download_config=config, file_format=_FILE_FORMAT)
            progress.update()
    except UserError:
        raise
    except ImportError:
        raise needs_tensorflow from None
    except Exception as error:  # whatever a data set's own code and its hosts may raise
        # Another process may have prepared the same folder meanwhile, which serves as well.
        if not builder.data_path.exists():
            _raise_if_of_the_disk(error, where)
            raise UserError(
                f"cannot prepare {dataset} in {where}: {first_line(error)} "
                "(connect to the network, delete a damaged download, or copy a prepared folder "
                "from another machine)"
            ) from None


def _raise_if_of_the_disk(error: Exception, where: Path) -> None:
    """Raises an OSError, which commands explain, where the disk was what failed."""
    for number in _FULL_DISK:
        # array_record raises a bare RuntimeError and TFDS an OSError without a number.
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            raise OSError(number, os.strerror(number), str(where)) from None
    # Without a file name it comes from elsewhere: sockets raise such errors too.
    if isinstance(error, OSError) and error.filename and error.errno in _NO_WRITING:
        raise error from None


def _check_features(info: tfds.core.DatasetInfo, dataset: str) -> None:
    try:
        image, label = (info.features[key] for key in info.supervised_keys)
    except (TypeError, ValueError, KeyError):  # none, three, or nested ones
        image = label = None
    is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
    if not (is_image and isinstance(label, tfds.features.ClassLabel)):
        raise UserError(
            f"{dataset} has the supervised keys {info.supervised_keys}; expected an 8-bit image "
            "and a class label"
        )


class _Examples:
    """The examples of one split: some whole numbers of each, and its image, still encoded.

    TFDS's own decoding of all features would take several times as long.
    """

    def __init__(
        self, builder: tfds.core.DatasetBuilder, split: str, numbers: Sequence[str]
    ) -> None:
        self.split, self._folder, self._numbers = split, builder.data_dir, numbers
        self.image_key = builder.info.supervised_keys[0]
        stored = tfds.decode.DeserializeMethod.RAW_BYTES
        self._source = self._read(lambda: builder.as_data_source(split, deserialize_method=stored))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._read(lambda: self._parsed(self._source[index]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self), _AT_ONCE):
            rows = range(first, min(first + _AT_ONCE, len(self)))
            read = lambda rows=rows: list(map(self._parsed, self._source.__getitems__(rows)))  # noqa: E731
            yield from self._read(read)

    def _parsed(self, record: bytes) -> dict[str, Any]:
        stored = tf_example_pb2.Example.FromString(record).features.feature
        numbers = {name: stored[name].int64_list.value[0] for name in self._numbers}
        return numbers | {self.image_key: stored[self.image_key].bytes_list.value[0]}

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # array_record raises bare RuntimeErrors
            raise UserError(
                f"cannot read the split {self.split} in {self._folder}: {first_line(error)}; "
                "delete that folder to have it prepared anew"
            ) from None


class _Image(NamedTuple):
    examples: _Examples
    index: int

    def read_bytes(self) -> bytes:
        return self.examples[self.index][self.examples.image_key]

    def __str__(self) -> str:
        return f"{self.examples.split} example {self.index}"


class _Read(NamedTuple):
    split: EncodedSplit
    digests: list[bytes]  # of each image's bytes


def _read_split(builder: tfds.core.DatasetBuilder, name: str) -> _Read:
    """Reads labels, groups and digests now, and each image again when it is asked for."""
    grouped = _GROUP_FEATURE in _whole_numbers(builder.info)
    keys = [builder.info.supervised_keys[1], *[_GROUP_FEATURE] * grouped]
    examples = _Examples(builder, name, keys)
    images = [_Image(examples, index) for index in range(len(examples))]
    values, digests = [], []
    for example in examples:
        values.append([example[key] for key in keys])
        digests.append(hashlib.sha256(example[examples.image_key]).digest())
    labels, *groups = np.array(values, np.int64).reshape(-1, len(keys)).T
    # Without a group feature every image stands alone.
    groups = groups[0] if groups else np.arange(len(images))
    split = EncodedSplit(images, labels.astype(np.int32), groups)
    known = np.flatnonzero(labels >= 0)  # TFDS marks an unknown label by -1
    return _Read(split.take(known), [digests[n] for n in known])


def _apart(train: _Read, test: _Read | None) -> tuple[EncodedSplit, EncodedSplit | None]:
    """Train without copies of test pictures, and test; of each, copies in one group."""
    reads = [train, test] if test else [train]
    whole = EncodedSplit(
        [image for read in reads for image in read.split.images],
        np.concatenate([read.split.labels for read in reads]),
        firsts_of([digest for read in reads for digest in read.digests]),
    )
    is_test = np.arange(len(whole)) >= len(train.split)
    kept = np.flatnonzero(~is_test & ~copies_of_tests(whole, is_test))
    apart = [
        dataclasses.replace(read.split, groups=joined(read.split.groups, firsts_of(read.digests)))
        for read in reads
    ]
    return apart[0].take(kept), apart[1] if test else None


def _whole_numbers(info: tfds.core.DatasetInfo) -> list[str]:
    """Names of the features that are one whole number per image, and are stored as such."""
    return [
        name
        for name, kind in info.features.items()
        if kind.shape == () and np.issubdtype(kind.get_serialized_info().np_dtype, np.integer)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TFDS's prints, warnings and many progress bars; errors still arrive as exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    # TFDS has a switch but no way to ask how it stands.
    bars_shown = getattr(tqdm_utils, "_active", True)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(bars_shown)
        logging.disable(disabled)

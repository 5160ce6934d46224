"""Opens, prepares and reads a TensorFlow Datasets (TFDS) data set, without TensorFlow.

    dataset = read_dataset("photo_patches", data_dir=folder)
    dataset.train.images[0]  # one image's bytes, still encoded as PNG or JPEG

`parts` turns what is read here into parts of equally sized images. TFDS reads without TensorFlow
what is stored as `array_record`, and whatever it raises becomes a line for the user here.
"""

import contextlib
import difflib
import errno
import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils
from tqdm import tqdm

from privynet_jax.errors import UserError
from privynet_jax.images import photo_patches
from privynet_jax.images.encoded import EncodedDataset, EncodedSplit, StoredImages

_FILE_FORMAT = "array_record"
# Examples that share this integer feature overlap and must stay together.
_GROUP_FEATURE = "cell"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS)


def read_dataset(dataset: str, data_dir: Path | str | None) -> EncodedDataset:
    """Returns a data set's train split and its test split, preparing the data set where needed.

    The test split is the one named test, else validation: the first that has labelled examples.

    Args:
        dataset: `photo_patches`, or what `tfds.builder` accepts, such as `cifar10`; it needs
            supervised keys that are an image and a class label.
        data_dir: where TFDS keeps prepared data sets; None is TFDS's default.

    Raises:
        UserError: unknown or unsuitable data set, or it is not prepared and cannot be (no network;
            TensorFlow needed but absent), or its files are damaged.
        OSError: the disk is full, or data_dir may not be written to, while it is prepared.
    """
    with _quiet():
        builder = _prepared_builder(dataset, data_dir)
        _check_features(builder.info, dataset)
        if "train" not in builder.info.splits:
            splits = ", ".join(builder.info.splits)
            raise UserError(f"{dataset} has no split train; it has {splits}; choose another one")
        train, test = _read_split(builder, "train"), None
        for name in ("test", "validation"):
            # Published test splits may hide their labels, which leaves nothing here.
            if not test and name in builder.info.splits:
                test = _read_split(builder, name)
    _, label_key = builder.info.supervised_keys
    return EncodedDataset(train, test or None, tuple(builder.info.features[label_key].names))


def read_feature(
    dataset: str, data_dir: Path | str | None, feature: str
) -> Iterator[tuple[bytes, int]]:
    """Yields (encoded image, value) of a whole-number feature, of every example of every split.

    Args:
        dataset: as for `read_dataset`.
        data_dir: likewise.
        feature: its name, such as "scale" of `photo_patches`.

    Raises:
        UserError: as for `read_dataset`, or the data set has no such feature.
    """
    with _quiet():
        builder = _prepared_builder(dataset, data_dir)
        _check_features(builder.info, dataset)
        features = builder.info.features
        whole = [
            name
            for name, kind in features.items()
            if kind.shape == () and np.issubdtype(kind.np_dtype, np.integer)
        ]
        if feature not in whole:
            raise UserError(
                f"{dataset} has no whole number {feature!r} per image; it has {', '.join(whole)}"
            )
        image_key, _ = builder.info.supervised_keys
        decoders = {image_key: tfds.decode.SkipDecoding()}
        sources = [builder.as_data_source(name, decoders=decoders) for name in builder.info.splits]
    for source in sources:
        for index in range(len(source)):
            try:
                example = source[index]
            except Exception as error:  # array_record raises bare RuntimeErrors
                raise UserError(
                    f"cannot read {builder.data_dir}: {_first_line(error)}; delete that folder to "
                    "have it prepared anew"
                ) from None
            yield example[image_key], int(example[feature])


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
    return builder


def _builder(dataset: str, data_dir: Path | str | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(dataset, known, n=5) or [photo_patches.PhotoPatches.name]
        reason = f"the closest names are {', '.join(close)}"
    except Exception as error:  # TFDS raises many types for a bad version, config or folder
        reason = _first_line(error)
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
        with tqdm(total=1, desc=f"preparing {dataset}", unit="data set") as progress:
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
                f"cannot prepare {dataset} in {where}: {_first_line(error)} "
                "(connect to the network, delete a damaged download, or copy a prepared folder "
                "from another machine)"
            ) from None


def _raise_if_of_the_disk(error: Exception, where: Path) -> None:
    """Raises an OSError, which commands explain, where that is what was wrong."""
    for number in _FULL_DISK:
        # array_record raises a bare RuntimeError and TFDS an OSError without a number.
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            raise OSError(number, os.strerror(number), str(where)) from None
    # Without a file name it comes from elsewhere: sockets raise such errors too.
    if isinstance(error, OSError) and error.filename and error.errno in _NO_WRITING:
        raise error from None


def _check_features(info: tfds.core.DatasetInfo, dataset: str) -> None:
    keys, features = info.supervised_keys, info.features
    if not (
        isinstance(keys, tuple)
        and len(keys) == 2
        and all(isinstance(key, str) for key in keys)
        and isinstance(features[keys[0]], tfds.features.Image)
        and features[keys[0]].np_dtype == np.uint8
        and isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise UserError(
            f"{dataset} has the supervised keys {keys}; expected an 8-bit image and a class label"
        )


def _read_split(builder: tfds.core.DatasetBuilder, name: str) -> EncodedSplit:
    """Reads labels and groups now, and each image when it is asked for."""
    image_key, label_key = builder.info.supervised_keys
    decoders = {image_key: tfds.decode.SkipDecoding()}
    damaged = f"cannot read the split {name} in {builder.data_dir}: "
    remedy = "; delete that folder to have it prepared anew"
    try:
        source = builder.as_data_source(name, decoders=decoders)
        keys = [label_key, _GROUP_FEATURE] if _has_groups(builder.info.features) else [label_key]
        examples = [_values(source[index], keys) for index in range(len(source))]
    except Exception as error:  # array_record raises bare RuntimeErrors
        raise UserError(damaged + _first_line(error) + remedy) from None

    def read(number: int) -> bytes:
        try:
            return source[number][image_key]
        except Exception as error:
            raise UserError(damaged + _first_line(error) + remedy) from None

    values = np.array(examples, np.int64).reshape(len(examples), len(keys))
    labels = values[:, 0].astype(np.int32)
    # Without a group feature every image stands alone.
    groups = values[:, 1] if len(keys) == 2 else np.arange(len(values))
    images = StoredImages(read, lambda number: f"{name} example {number}", np.arange(len(values)))
    split = EncodedSplit(images, labels, groups)
    return split.take(np.flatnonzero(labels >= 0))  # TFDS marks an unknown label by -1


def _values(example: dict[str, Any], keys: list[str]) -> list[int]:
    return [int(example[key]) for key in keys]


def _has_groups(features: tfds.features.FeaturesDict) -> bool:
    """Whether the group feature is there and a number: elsewhere the name may mean anything."""
    if _GROUP_FEATURE not in features:
        return False
    feature = features[_GROUP_FEATURE]
    is_scalar = isinstance(feature, tfds.features.Tensor) and feature.shape == ()
    return is_scalar and np.issubdtype(feature.np_dtype, np.integer)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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

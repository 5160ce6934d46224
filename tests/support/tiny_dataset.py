"""A made-up TFDS data set, small enough to be prepared within a test."""

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def tiny_builder(name, splits, *, numpy_images=False, hidden_labels=(), cells=None, marks=None):
    """A builder class: grey images 20 wide and 12 high, each of grey level 50 * label.

    That is the level of the central square; beyond it, `marks` tell them apart.

    Args:
        name: of the data set.
        splits: split name -> number of images; labels go round 0, 1, 2.
        numpy_images: whether to yield arrays, which TFDS cannot encode without TensorFlow.
        hidden_labels: splits whose labels are all -1.
        cells: (feature, function of the index) that gives a feature named cell.
        marks: function of split and index, bytes; equal ones of a label make equal images.
    """

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 1)),
                "label": tfds.features.ClassLabel(names=["dark", "grey", "bright"]),
            }
            if cells:
                features["cell"] = cells[0]
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for index in range(splits[split]):
                label = index % 3
                pixels = np.full((12, 20), 50 * label, np.uint8)
                mark = marks(split, index) if marks else f"{split[:2]}{index}".encode()
                pixels[: len(mark), 0] = list(mark)
                image = pixels[..., None] if numpy_images else Image.fromarray(pixels)
                example = {"image": image, "label": -1 if split in hidden_labels else label}
                yield index, example | ({"cell": cells[1](index)} if cells else {})

    Tiny.name = name
    return Tiny


def prepare(builder_class, data_dir):
    """Writes a data set of such a class to `data_dir`; returns its builder."""
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=config)
    return builder

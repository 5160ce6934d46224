"""DICOM as one of the formats that Pillow reads, where pydicom is installed: an extra.

    register()
    Image.open(path, formats=["DICOM"])  # grey or RGB of 8 bits, by the window that the file states

What its makers meant to be seen is in a file's window (VOI LUT, DICOM PS3.3 C.11.2): values outside
of it are black or white. A user may give another one. Without any nothing says which values matter,
and the file is refused.
"""

import importlib.util
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from privynet_jax.images.pixels.colours import UnreadablePictureError

DICOM = "DICOM"
_PREAMBLE, _MAGIC = 128, b"DICM"
_EXTREMES = np.array([-(2.0**40), 2.0**40])  # beyond any window


def is_dicom(data: bytes) -> bool:
    """Whether a file's content begins as DICOM does."""
    return data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def register() -> None:
    """Makes Pillow read it, if pydicom is there."""
    if importlib.util.find_spec("pydicom"):
        Image.register_open(DICOM, _DicomFile)


class _DicomFile(ImageFile.ImageFile):
    """Of which the header is read first, and values when they are wanted."""

    format = DICOM
    window: tuple[float, float] | None = None  # in place of the file's
    format_description = "Digital Imaging and Communications in Medicine"

    def _open(self) -> None:
        if not is_dicom(self.fp.read(_PREAMBLE + len(_MAGIC))):
            raise SyntaxError("no DICOM")
        import pydicom  # where there is one to be read

        self.fp.seek(0)
        self._dataset = found = pydicom.dcmread(self.fp)
        if any(name not in found for name in ("Rows", "Columns", "PixelData")):
            raise UnreadablePictureError("it is DICOM that holds no picture; remove it")
        self._size = int(found.Columns), int(found.Rows)
        self._mode = "L" if int(found.SamplesPerPixel) == 1 else "RGB"

    def load(self) -> object:
        """As `ImageFile.load`."""
        if self._dataset is not None:
            self.im = Image.fromarray(_eight_bits(self._dataset, self.window)).im
            self._mode, self._dataset = self.im.mode, None
        return super().load()


def _eight_bits(found: Any, window: tuple[float, float] | None) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] of a pydicom data set; UnreadablePictureError for odd ones."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    if int(found.get("NumberOfFrames") or 1) > 1:
        raise UnreadablePictureError("it is DICOM of several frames; save each as a picture")
    try:
        values = pixel_array(found)
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise
        raise UnreadablePictureError(
            f"it is DICOM, compressed as {found.file_meta.TransferSyntaxUID.name}; pip install "
            "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or store it uncompressed"
        ) from None
    if values.ndim == 3 and values.dtype == np.uint8:
        return values  # RGB by now, whatever was stored
    if values.ndim != 2 or not str(found.PhotometricInterpretation).startswith("MONOCHROME"):
        raise UnreadablePictureError("it is DICOM of unusual colours; convert it to PNG")
    if window is not None:
        found.WindowCenter, found.WindowWidth = window
        for name in ("VOILUTSequence", "VOILUTFunction"):
            if name in found:
                del found[name]
    if found.get("VOILUTSequence"):
        _, _, bits = found.VOILUTSequence[0].LUTDescriptor
        least, most = 0, 2 ** int(bits) - 1
    elif found.get("WindowCenter") is not None and found.get("WindowWidth") is not None:
        least, most = apply_voi_lut(_EXTREMES, found)
    else:
        raise UnreadablePictureError(
            "it is DICOM without a window, so it is unknown which values are black and white; "
            "give --dicom_window=CENTRE,WIDTH, store one in it, or convert it to PNG"
        )
    shown = apply_voi_lut(apply_modality_lut(values, found), found)
    shares = np.clip((shown - least) / (most - least), 0, 1)
    if found.PhotometricInterpretation == "MONOCHROME1":  # the least value is white
        shares = 1 - shares
    return np.uint8(np.rint(255 * shares))

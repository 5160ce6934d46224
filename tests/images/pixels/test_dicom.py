"""DICOM is seen as its window shows it, and refused where nothing says what is black and white."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from privynet_jax.images.pixels import pictures
from privynet_jax.images.pixels.colours import UnreadablePictureError
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import Reading

SIZE = 16
# Hounsfield units, a square of them, from air to bone.
UNITS = np.linspace(-1000, 1000, SIZE * SIZE).reshape(SIZE, SIZE).round().astype(int)


def made(stored, *, compress=False, **changes):
    """A file as a scanner writes it: values [H, W] of 16 bits, 1024 above Hounsfield units."""
    found = pydicom.Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, generate_uid()
    found.PatientName = "Doe^Jane"
    found.Rows, found.Columns = stored.shape[:2]
    found.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    found.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        found.PlanarConfiguration = 0
    bits = 8 * stored.dtype.itemsize
    found.BitsAllocated, found.BitsStored, found.HighBit = bits, bits, bits - 1
    found.PixelRepresentation = 0
    found.PixelData = stored.tobytes()
    for name, value in changes.items():
        setattr(found, name, value)
    if compress:
        found.compress(RLELossless)
    content = io.BytesIO()
    found.save_as(content, enforce_file_format=True)
    return content.getvalue()


CT = np.uint16(UNITS + 1024)
SCALED = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def windowed(center, width):
    """By the formula of PS3.3 C.11.2.1.2.1, to 8 bits."""
    shown = (UNITS - (center - 0.5)) / (width - 1) + 0.5
    return 255 * np.clip(shown, 0, 1)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500)])
def test_a_window_says_what_is_seen(center, width, compress):
    data = made(CT, compress=compress, WindowCenter=center, WindowWidth=width, **SCALED)
    found = decode_picture(data, SIZE)
    assert found.shape == (SIZE, SIZE, 3)
    np.testing.assert_allclose(found[..., 0], windowed(center, width), atol=1)
    assert (found == found[..., :1]).all()


def test_of_several_windows_the_first_counts():
    data = made(CT, WindowCenter=[40, -600], WindowWidth=[400, 1500], **SCALED)
    np.testing.assert_allclose(decode_picture(data, SIZE)[..., 0], windowed(40, 400), atol=1)


def test_films_whose_least_value_is_white():
    data = made(
        CT, WindowCenter=40, WindowWidth=400, PhotometricInterpretation="MONOCHROME1", **SCALED
    )
    np.testing.assert_allclose(decode_picture(data, SIZE)[..., 0], 255 - windowed(40, 400), atol=1)


def test_a_table_says_what_is_seen():
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table.LUTData = np.uint16(4095 - np.arange(4096)).tobytes()
    table["LUTData"].VR = "OW"
    found = decode_picture(made(CT, VOILUTSequence=pydicom.Sequence([table])), SIZE)
    np.testing.assert_allclose(found[..., 0], 255 * (4095 - CT.astype(int)) / 4095, atol=1)


def test_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_picture(made(pixels), SIZE), pixels)


REFUSED = {
    "no window": (made(CT), "without a window, so it is unknown which values are black"),
    "frames": (
        made(np.concatenate([CT, CT]), Rows=SIZE, NumberOfFrames=2, WindowCenter=1, WindowWidth=9),
        "of several frames",
    ),
    "half a file": (made(CT, WindowCenter=40, WindowWidth=400)[:-100], "it is damaged"),
    "no pixels": (made(CT)[:200], "it is DICOM that holds no picture"),
    "colours of a palette": (
        made(np.uint8(UNITS % 256), PhotometricInterpretation="PALETTE COLOR"),
        "unusual colours",
    ),
    "enormous": (made(CT, Rows=60_000, Columns=60_000), "it has over 150,000,000 pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_seen_is_one_line(case):
    data, message = REFUSED[case]
    with pytest.raises(UnreadablePictureError, match=message) as caught:
        decode_picture(data, SIZE)
    assert "\n" not in str(caught.value)
    assert "Jane" not in str(caught.value)


def test_a_compression_that_nothing_here_reads_is_named():
    found = pydicom.dcmread(io.BytesIO(made(CT, WindowCenter=40, WindowWidth=400)))
    found.file_meta.TransferSyntaxUID = JPEGLSLossless
    found.PixelData = pydicom.encaps.encapsulate([found.PixelData])
    content = io.BytesIO()
    found.save_as(content, enforce_file_format=True)
    with pytest.raises(UnreadablePictureError, match=r"compressed as JPEG-LS .*; pip install py"):
        decode_picture(content.getvalue(), SIZE)


def test_without_pydicom_it_is_named(monkeypatch):
    kinds = tuple(kind for kind in pictures.FORMATS if kind != "DICOM")
    monkeypatch.setattr(pictures, "FORMATS", kinds)
    monkeypatch.setattr(Image, "OPEN", {kind: Image.OPEN[kind] for kind in kinds})
    with pytest.raises(UnreadablePictureError, match=r"it is DICOM; pip install pydicom"):
        decode_picture(made(CT), SIZE)


@pytest.mark.parametrize("own", [{}, {"WindowCenter": 0, "WindowWidth": 99}])
@pytest.mark.parametrize(("centre", "width"), [(40.0, 400.0), (-600.0, 1500.0)])
def test_a_user_s_window_takes_the_place_of_the_file_s(own, centre, width):
    reading = Reading(dicom_window=(centre, width))
    found = decode_picture(made(CT, **SCALED, **own), SIZE, reading=reading)
    np.testing.assert_allclose(found[..., 1], windowed(centre, width), atol=0.51)

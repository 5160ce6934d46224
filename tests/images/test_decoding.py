"""Many pictures are decoded ahead of whoever reads them."""

import pytest
from PIL import Image
from support.picture_files import PIXELS, SIZE, encoded

from privynet_jax.errors import UserError
from privynet_jax.images.decoding import decoded_ahead


def test_decoding_ahead_keeps_the_order_and_tells_late():
    good, bad = encoded(Image.fromarray(PIXELS)), b"no picture"
    pictures = [("a", good), ("b", bad), *[("c", good)] * 20]
    decoded = decoded_ahead(iter(pictures), SIZE, skip=True)
    missing = [place for place, ahead in enumerate(decoded) if ahead.result() is None]
    assert missing == [1]
    decoded = decoded_ahead(iter(pictures), SIZE, skip=False)
    next(decoded).result()
    with pytest.raises(UserError, match=r"cannot use b: .*--skip_unreadable"):
        next(decoded).result()

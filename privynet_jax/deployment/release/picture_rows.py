"""Which rows pictures have, by digests: for what was released before, and what is to be revoked.

    coding = Coding("float16", ones, peaks)
    digests = picture_digests(pictures, package, coding, skip_unreadable=True)
    [number for number, digest in digests.items() if digest in known]

No JAX here.
"""

import itertools

import numpy as np

from privynet_jax.deployment.device.local_package import LocalPackage
from privynet_jax.deployment.release.equal_rows import row_digests
from privynet_jax.deployment.release.release_inputs import Pictures
from privynet_jax.deployment.release.release_rows import images_at_once
from privynet_jax.images.decoding import Decoder, decoded_ahead
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.coding import Coding


def picture_digests(
    pictures: Pictures,
    package: LocalPackage,
    coding: Coding,
    *,
    skip_unreadable: bool,
    decode: Decoder | None = None,
) -> dict[int, str]:
    """Returns picture number -> digest of the row that it has where rows are stored as said.

    Unreadable pictures have none, or are refused. Without a decoder of its own it is that of the
    pictures, which keeps small versions of large ones.
    """
    contents = ((pictures.name(number), pictures.read(number)) for number in range(len(pictures)))
    decoded = decoded_ahead(
        contents, package.image_size, skip_unreadable, decode or pictures.decode
    )
    images = ((number, ahead.result()) for number, ahead in enumerate(decoded))
    found, batch = {}, images_at_once(package.image_size)
    with Bar(total=len(pictures), desc="looking for rows", unit="picture", delay=2) as bar:
        while some := list(itertools.islice(images, batch)):
            readable = [(number, image) for number, image in some if image is not None]
            if readable:
                local = package.represent(np.stack([image for _, image in readable]))
                with np.errstate(over="ignore", invalid="ignore"):
                    rows = coding.decoded(coding.encode(local))[:]
                found |= zip([number for number, _ in readable], row_digests(rows), strict=True)
            bar.update(len(some))
    return found

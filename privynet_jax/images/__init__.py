"""Images: decoding, folders, TFDS, photo_patches, the four parts, and image metrics."""

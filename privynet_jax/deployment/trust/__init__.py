"""Who made a package, a release or a classifier: signatures, and releases for one reader's eyes."""

"""Pictures to a release that leaves the device: writing, verifying, reading."""

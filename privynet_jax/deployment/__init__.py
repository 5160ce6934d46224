"""The plan at work: the device that releases, the release itself, and the cloud that trains."""

"""Files that appear whole or not at all, so that a killed run never leaves half of one."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes a file under a temporary name beside `path`, then renames it to `path`.

    Args:
        path: what to write; an existing file is replaced.
        data: the whole content; text is written as UTF-8.
    """
    content = data.encode() if isinstance(data, str) else data
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)  # mkstemp makes it private to the user
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise

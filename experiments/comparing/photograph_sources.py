"""Sources of pictures that share no photograph: photographs of a folder, cut into patches by twos.

sources = photograph_sources(Path("photographs"), Path("runs/episodes/sources"))
sources[0]  # Path("runs/episodes/sources/a+b"), with train/a, train/b, test/a and test/b
"""

from pathlib import Path

import numpy as np
from PIL import Image

from privynet_jax import UserError
from privynet_jax.images.folders import list_pictures
from privynet_jax.images.photo_patches import MAX_PATCHES, Patch, cut_photograph
from privynet_jax.platform.files import appears_whole
from privynet_jax.platform.progress import progress_bar

# Photographs of one source are its classes; of fewer patches than half the most, none is taken.
_EACH = 2
_LEAST_SHARE = 0.5
_ORIGIN = "photographs.txt"  # the folder that the sources were cut of


def photograph_sources(photographs: Path, out: Path) -> list[Path]:
    """Cuts photographs into folders of a new folder `out`; returns those, or what is there.

    Patches are those of `photo_patches`, whose test patches share no pixel with the others.

    Raises:
        UserError: fewer than two of the files are photographs with enough patches that show
            something, two have one name, or `out` is of another folder.
    """
    origin = str(photographs.resolve())
    if out.exists():
        told = out / _ORIGIN
        found = told.read_text(encoding="utf-8") if told.exists() else "something else"
        if found != origin:
            raise UserError(f"{out} has patches of {found}, not of {origin}; give another --out")
        return sorted(path for path in out.iterdir() if path.is_dir())
    files, kept = list_pictures(photographs), {}
    with progress_bar(len(files), "cutting photographs", "photographs", after=2) as advance:
        for file in files:
            parts = _cut(file)
            if all(len(parts[s]) >= _LEAST_SHARE * most for s, most in MAX_PATCHES.items()):
                if file.stem in kept:
                    raise UserError(
                        f"{photographs} has two photographs called {file.stem}; rename one of them"
                    )
                kept[file.stem] = parts
            advance(1)
    if len(kept) < _EACH:
        raise UserError(
            f"{photographs} has {len(kept)} photographs with enough patches that show something; "
            f"a source takes {_EACH}; give more, of a few megapixels each"
        )
    # Somebody's own photographs are for that user alone.
    out.parent.mkdir(0o700, parents=True, exist_ok=True)
    names = sorted(kept)
    sources = [names[i : i + _EACH] for i in range(0, len(names) - _EACH + 1, _EACH)]
    with appears_whole(out) as partial:
        for source in sources:
            for name in source:
                _write(kept[name], name, partial / "+".join(source))
        (partial / _ORIGIN).write_text(origin, encoding="utf-8")
    return [out / "+".join(source) for source in sources]


def _cut(file: Path) -> dict[str, list[Patch]]:
    try:
        with Image.open(file) as image:
            return cut_photograph(np.asarray(image.convert("RGB")))
    except OSError:
        raise UserError(f"{file} is no picture that can be read; take it away") from None


def _write(parts: dict[str, list[Patch]], name: str, folder: Path) -> None:
    for split, patches in parts.items():
        (folder / split / name).mkdir(parents=True)
        for index, patch in enumerate(patches):
            Image.fromarray(patch.image).save(folder / split / name / f"{index:03d}.png")

"""Releases as they arrive in the cloud: folders and tars, alone or many in one folder.

    releases = open_releases([Path("a.tar"), Path("inbox")])
    releases["inbox/b.tar"].representations

No JAX here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from privynet_jax.deployment.release.release_files import MANIFEST, ReleaseFiles
from privynet_jax.deployment.release.release_folder import HELD_BYTES, Release, open_release
from privynet_jax.errors import UserError
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.shards import opener_of_files


def open_releases(paths: Sequence[Path]) -> dict[str, Release]:
    """Returns name -> release, all verified, in the order of the paths.

    Args:
        paths: of releases, as folders or as tars, and of folders that hold nothing else.

    Raises:
        UserError: one of them is none, damaged or there twice, or they are of several plans or
            shapes.
    """
    found = [release for path in paths for release in _releases_in(path)]
    opener = opener_of_files()
    held = HELD_BYTES if len(found) == 1 else 0  # else they are held together
    opened: dict[str, Release] = {}
    names: dict[str, str] = {}  # by id
    for path in Bar(found, "opening releases", len(found), unit="release", delay=2):
        name, release = str(path), open_release(path, opener, held)
        if release.id in names:
            raise UserError(f"{names[release.id]} and {name} are the same release; leave one out")
        names[release.id] = name
        opened[name] = release
        _check_fits(name, release, *next(iter(opened.items())))
    return opened


def _releases_in(path: Path) -> Iterator[Path]:
    """The path itself, or what a folder holds."""
    if not path.is_dir() or (path / MANIFEST).exists() or ReleaseFiles(path).is_begun():
        yield path
        return
    inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    strange = [child for child in inside if not (child.is_dir() or child.suffix == ".tar")]
    if strange or not inside:
        what = f"holds {strange[0].name}, which is no release" if strange else "is no release"
        raise UserError(
            f"{path} {what}; give the folder that experiments.extract wrote, its tar, or a folder "
            "that holds nothing else"
        )
    for child in inside:  # what extract leaves: a folder, and the same as a tar
        if child.is_dir() or child.with_suffix("") not in inside:
            yield child


def _check_fits(name: str, release: Release, first_name: str, first: Release) -> None:
    if release.plan_id != first.plan_id:
        raise UserError(f"{name} is of another plan than {first_name}; give what belongs together")
    if (shape := release.representations.shape[1:]) != first.representations.shape[1:]:
        raise UserError(
            f"{name} has rows of {shape}, {first_name} of {first.representations.shape[1:]}; give "
            "what belongs together"
        )

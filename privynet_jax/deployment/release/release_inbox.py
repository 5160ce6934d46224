"""Releases as they arrive in the cloud: folders and tars, alone or many in one folder.

    releases = open_releases([Path("a.tar"), Path("inbox")])
    releases["inbox/b.tar"].representations

No JAX here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from privynet_jax.deployment.release.release_files import MANIFEST, ReleaseFiles, files_at
from privynet_jax.deployment.release.release_folder import HELD_BYTES, Release, open_release
from privynet_jax.deployment.release.release_manifest import Manifest, signed_manifest
from privynet_jax.deployment.release.release_tar import TAR
from privynet_jax.deployment.trust.sealing import SUFFIX as SEALED
from privynet_jax.deployment.trust.signatures import ANYBODY, Trust
from privynet_jax.errors import UserError
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.shards import opener_of_files

_MOST_NAMED = 8


def open_releases(
    paths: Sequence[Path], *, labelled: bool = False, trust: Trust = ANYBODY
) -> dict[str, Release]:
    """Returns name -> release, all verified, in the order of the paths.

    Args:
        paths: of releases, as folders or as tars, and of folders that hold nothing else. A tar
            beside the folder that it was made of is passed over.
        labelled: whether those without labels are refused.
        trust: whose signatures are accepted.

    Raises:
        UserError: some of them are none, damaged, there twice, of another plan or shape than most,
            or signed by nobody who is trusted; it says how many, and names the first, before much
            is read where that can be.
    """
    found = list(dict.fromkeys(release for path in paths for release in _releases_in(path)))
    manifests: dict[Path, Manifest] = {}
    refused: dict[Path, str] = {}
    for path in found:
        try:
            manifests[path], _ = signed_manifest(files_at(path), trust)
        except UserError as error:
            refused[path] = str(error)
    for tar in [path for path in manifests if _is_made_of(path, manifests)]:
        found.remove(tar)
        del manifests[tar]
    refused |= _not_fitting(manifests)
    if labelled:
        refused |= {
            path: f"{path} has no labels, so there is nothing to learn; release the pictures again "
            "with their labels"
            for path, manifest in manifests.items()
            if manifest.classes is None
        }
    _refuse(refused, len(found))
    opener = opener_of_files()
    held = HELD_BYTES if len(found) == 1 else 0  # else they are held together
    opened: dict[str, Release] = {}
    for path in Bar(found, "opening releases", len(found), unit="release", delay=2):
        try:
            opened[str(path)] = open_release(path, opener, held, trust)
        except UserError as error:
            refused[path] = str(error)
    _refuse(refused, len(found))
    return opened


def _releases_in(path: Path) -> Iterator[Path]:
    """The path itself, or what a folder holds."""
    if not path.is_dir() or (path / MANIFEST).exists() or ReleaseFiles(path).is_begun():
        yield path
        return
    inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    # What extract makes beside a release's folder; alone it has a refusal of its own.
    sealed = [child for child in inside if child.suffix == SEALED]
    inside = [c for c in inside if not (c in sealed and c.with_suffix("").is_dir())]
    known = [child for child in inside if child.is_dir() or child.suffix in (TAR, SEALED)]
    strange = [child for child in inside if child not in known]
    if strange or not inside:
        what = f"holds {strange[0].name}, which is no release" if strange else "is no release"
        raise UserError(
            f"{path} {what}; give the folder that experiments.extract wrote, its tar, or a folder "
            "that holds nothing else"
        )
    yield from inside


def _is_made_of(tar: Path, manifests: dict[Path, Manifest]) -> bool:
    """Whether it is what extract makes beside a release's folder, which is there too."""
    folder = manifests.get(tar.with_suffix(""))
    return tar.suffix == TAR and folder is not None and folder.id == manifests[tar].id


def _not_fitting(manifests: dict[Path, Manifest]) -> dict[Path, str]:
    """Path -> what is wrong, of releases of another plan or shape than most, or there twice."""
    refused = {}
    for what, of in {"plan": lambda m: m.plan_id, "shape of rows": lambda m: m.shape}.items():
        usual = Counter(map(of, manifests.values())).most_common(1)
        for path, manifest in manifests.items():
            if of(manifest) != usual[0][0]:
                refused[path] = f"{path} is of another {what} than the others"
    names: dict[str, Path] = {}
    for path, manifest in manifests.items():
        if (first := names.setdefault(manifest.id, path)) != path:
            refused[path] = f"{path} and {first} are the same release"
    return {path: f"{why}; leave it out" for path, why in refused.items()}


def _refuse(refused: dict[Path, str], count: int) -> None:
    if not refused:
        return
    reason = next(iter(refused.values()))
    if len(refused) == 1:
        raise UserError(reason)
    names = ", ".join(map(str, list(refused)[:_MOST_NAMED]))
    more = ", ..." if len(refused) > _MOST_NAMED else ""
    raise UserError(f"{len(refused)} of {count} releases are refused: {names}{more}; {reason}")

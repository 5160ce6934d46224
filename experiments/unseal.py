"""Opens releases that were encrypted to you, as tars for `train_cloud` and `predict`.

    python -m experiments.unseal --release=inbox,late.sealed --key=cloud.key --out=opened

--release names what `extract --encrypt_to` wrote, or folders of such. The new folder --out has a
tar for each. Who made them, `train_cloud --trusted` asks. Takes seconds for each gigabyte.
"""

from collections.abc import Iterator
from pathlib import Path

from experiments import cli
from privynet_jax import UserError
from privynet_jax.deployment.release.release_tar import TAR
from privynet_jax.deployment.trust.keys import read_private
from privynet_jax.deployment.trust.sealing import SUFFIX, unsealed
from privynet_jax.platform.files import appears_whole, check_is_new, write_shared
from privynet_jax.platform.progress import progress_bar

cli.key_flags("release key out")


def main() -> None:
    cli.needed(cli.RELEASE, "name what was handed over")
    cli.needed(cli.KEY, "give your .key, of experiments.keys")
    out, key = cli.needed_folder(cli.OUT), read_private(cli.needed_file(cli.KEY))
    check_is_new(out)
    found = list(dict.fromkeys(one for path in cli.paths(cli.RELEASE) for one in _sealed(path)))
    tars = {path: f"{path.stem}{TAR}" for path in found}
    if len({*tars.values()}) < len(found):
        raise UserError("two of the releases have the same name; open them into two folders")
    with appears_whole(out) as partial, progress_bar(len(found), "opening", "releases") as advance:
        partial.mkdir(mode=0o700)
        for path, name in tars.items():
            write_shared(partial / name, unsealed(path, key), private=True)
            advance(1)
    print(f"{len(found)} releases are open in {out}, for you alone.")


def _sealed(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist; give what extract --encrypt_to wrote")
    inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not inside:
        raise UserError(f"{path} holds no *{SUFFIX}; give a folder of what was encrypted to you")
    yield from inside


if __name__ == "__main__":
    cli.run(main)

"""Makes the folder that travels to a machine without network, to measure its accelerator there.

    python -m experiments.benchmarking.pack --out=packed
    sh packed/run.sh results    # there

It holds this code, VGG16's weights as float16, photographs, and wheels of what the machine lacks.
That has Python, JAX, Flax, Optax, Orbax, NumPy and SciPy, and maybe PyTorch; Linux on x86-64.
"""

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.benchmarking.accelerators.materials import PHOTOGRAPHS, WEIGHTS_FILE, packed
from privynet_jax import UserError, load_weights
from privynet_jax.images.photo_patches import photograph_paths
from privynet_jax.platform.files import appears_whole

cli.key_flags("out cache_dir")
_PYTHONS = flags.DEFINE_list(
    "pythons", ["3.11", "3.12"], "Versions of Python that the machine may have."
)
# What the benchmark imports besides; a test looks.
LACKING = ("lazy-loader", "packaging", "pillow", "tqdm")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_MOST_BYTES = 60_000_000
_ROOT = Path(__file__).parents[2]
_SCRIPT = """\
#!/bin/sh
# sh run.sh RESULTS [FLAGS of experiments.benchmark]: measures the accelerator of this machine.
# PYTHON is the interpreter, SCRATCH keeps what may be computed again. Nothing is installed.
set -e
results=${1:?give a folder for the results}
shift
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
scratch=${SCRATCH:-${TMPDIR:-/tmp}/privynet_jax-accelerator}
version=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
mkdir -p "$scratch/site"
for wheel in "$here"/wheels/*-none-any.whl "$here"/wheels/*-"$version"-*.whl; do
    [ -e "$wheel" ] || { echo "error: no wheels for $version; pack with --pythons" >&2; exit 1; }
    "$python" -m zipfile -e "$wheel" "$scratch/site"
done
export PYTHONPATH="$here/code:$scratch/site" PIP_NO_INDEX=1
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$scratch/compiled}"
exec "$python" -m experiments.benchmark --accelerator --out="$results" --packed="$here" \\
    --cache_dir="$scratch" "$@"
"""


def main() -> None:
    target = cli.needed_folder(cli.OUT)
    cache = cli.folder("cache_dir", cli.CACHE_DIR.value)
    with appears_whole(target) as folder:
        folder.mkdir()
        for package in ("privynet_jax", "experiments"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_ROOT / package, folder / "code" / package, ignore=ignored)
        packed(load_weights(cache_dir=cache).params, folder / WEIGHTS_FILE)
        (folder / PHOTOGRAPHS).mkdir()
        for number, path in enumerate(photograph_paths(cache / "photographs")):
            shutil.copyfile(path, folder / PHOTOGRAPHS / f"{number:02d}-{path.name}")
        _fetch_wheels(folder / "wheels", _PYTHONS.value)
        (folder / "run.sh").write_text(_SCRIPT, encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.rglob("*"))
        if size > _MOST_BYTES:
            raise UserError(
                f"the folder would have {size / 1e6:.0f} MB; {_MOST_BYTES / 1e6:.0f} are allowed; "
                "give fewer --pythons"
            )
    print(f"{size / 1e6:.1f} MB are in {target}; there: sh {target.name}/run.sh RESULTS")


def _fetch_wheels(folder: Path, pythons: Sequence[str]) -> None:
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in LACKING]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    for python in pythons:
        done = subprocess.run(
            [*command, "--python-version", python, *wanted], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"pip cannot download wheels for Python {python}: {reason}")


if __name__ == "__main__":
    cli.run(main)

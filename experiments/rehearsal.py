r"""Plays the whole story with many contributors: what it takes, what it brings, what a thief gets.

    python -m experiments.rehearsal --plan=plan.json --images=folder:pictures --contributors=20 \
        --out=runs/rehearsal

The pictures are dealt out to contributors. Each has a package, and makes a release by its program,
in a process of its own that --python runs, as on a device; the cloud trains on all tars together,
and on one alone; a contributor predicts pictures that were left out. Then the other contributors'
pictures are attacked: by the cloud, which has the tars and pictures of its own (class `public`),
and by a thief, who has one contributor's package and pictures besides. With --signed everybody has
keys, signs, and takes from the others alone; devices then need the cryptography package. Writes
rehearsal.csv. Takes minutes, most of them for attacks; the same command again continues where it
was stopped.
"""

import concurrent.futures
import csv
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from experiments import cli
from experiments.comparing.ground import deciding, filled, kept_rows
from privynet_jax import (
    Budget,
    Part,
    Parts,
    Plan,
    Protocol,
    Schedule,
    UserError,
    measure,
    read_plan,
)
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.scenario import make_scenario
from privynet_jax.deployment.device.package_export import write_package
from privynet_jax.deployment.trust.keys import (
    PRIVATE,
    PUBLIC,
    PrivateKey,
    make_keys,
    read_private,
)
from privynet_jax.images.partition import spread_over_classes, stream_of
from privynet_jax.planning.lengths import attackers_schedule
from privynet_jax.platform.files import appears_whole, private_folder, write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cells import Cell
from privynet_jax.results.statistics import bootstrap, mean_of, p95_of
from privynet_jax.results.text_tables import aligned, as_csv

cli.key_flags("plan images out seed weights cache_dir data_dir max_images attacked_images")
_CONTRIBUTORS = flags.DEFINE_integer("contributors", 20, "How many there are.", 2)
_PYTHON = flags.DEFINE_string("python", sys.executable, "Of devices: NumPy, Pillow, onnxruntime.")
_SIGNED = flags.DEFINE_boolean("signed", False, "Whether everything is signed.")
_DTYPE = "float16"
# What attacks are by, as results call it.
_CLOUD, _THIEF = "public", "white box from strong"
_RELEASES, _ALONE = "inbox", "00.tar"


def main() -> None:
    cli.use_cpu_cores()
    out, plan = cli.needed_folder(cli.OUT), read_plan(cli.needed_file(cli.PLAN))
    images = cli.needed(cli.IMAGES, "give folder:PATH or a data set's name")
    parts = cli.load_data(images, image_size=plan.image_size, reading=plan.reading)
    own = {
        **deciding("contributors", "attacked_images", "signed"),
        "plan": plan.id,
        "data": parts.fingerprint,
    }
    kept = kept_rows(out, own, "rehearsal", images)
    story = _Story(out, plan, parts, _dealt(parts.target))
    steps: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "devices": story.devices,
        "cloud": story.cloud,
        "predictions": story.predictions,
        "cloud's attack": story.clouds_attack,
        "thief's attack": story.thiefs_attack,
    }
    rows = []
    with progress_bar(len(steps), "rehearsing", "steps") as advance:
        for title, step in steps.items():
            [found] = filled(kept, {title: step}, _measured)
            rows += found.values()
            advance(1)
    write_atomically(out / "rehearsal.csv", as_csv(rows))
    print(aligned(rows))
    print(f"rehearsal.csv is in {out}.")


def _measured(steps: list[Callable[[], Iterator[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    return ({row["what"]: row for row in step()} for step in steps)


def _dealt(part: Part) -> list[Part]:
    """A part for each contributor: whole groups, about as many pictures each."""
    count = _CONTRIBUTORS.value
    groups = np.arange(len(part)) if part.groups is None else part.groups
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < count:
        raise UserError(
            f"--contributors={count}, but {len(part)} pictures in {len(sizes)} groups that belong "
            "together are too few; give fewer contributors or more pictures"
        )
    owners, loads = np.empty(len(sizes), int), np.zeros(count, int)
    for group in stream_of(cli.SEED.value, "contributors").permutation(len(sizes)):
        owners[group] = loads.argmin()
        loads[owners[group]] += sizes[group]
    return [part.take(np.flatnonzero(owners[members] == number)) for number in range(count)]


def _row(what: str, value: float, unit: str, low: float = np.nan, high: float = np.nan) -> dict:
    return {"what": what, "value": value, "value_low": low, "value_high": high, "unit": unit}


@dataclasses.dataclass(frozen=True)
class _Story:
    """Everything in its folder: pictures, packages, what was handed over, classifiers."""

    out: Path
    plan: Plan
    parts: Parts
    mine: list[Part]

    def devices(self) -> Iterator[dict[str, Any]]:
        """Packages, and a release of each contributor, by processes side by side."""
        weights = cli.weights_of(self.plan)
        self.plan.check_weights(weights.fingerprint, weights.source)
        for number, part in enumerate(self.mine):
            self._save(part, self.out / "pictures" / f"{number:02d}")
            if not (package := self._package(number)).exists():
                write_package(package, self.plan, weights.params, key=self._key("planner"))
        (self.out / _RELEASES).mkdir(exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            seconds = list(pool.map(self._release, range(len(self.mine))))
        sizes = [path.stat().st_size for path in (self.out / _RELEASES).iterdir()]
        package = sum(path.stat().st_size for path in self._package(0).iterdir())
        yield _row("contributors", len(self.mine), "")
        yield _row("pictures each", float(np.mean([*map(len, self.mine)])), "")
        yield _row("package", package / 2**20, "MiB")
        yield _row("extract", float(np.median(seconds)), "s", min(seconds), max(seconds))
        size, least, most = (float(f(sizes)) / 2**10 for f in (np.mean, min, max))
        yield _row("release", size, "KiB", least, most)
        yield _row("all releases", sum(sizes) / 2**20, "MiB")

    def cloud(self) -> Iterator[dict[str, Any]]:
        """What it learns of all, and of one contributor."""
        for name, release in {"all": _RELEASES, "one": f"{_RELEASES}/{_ALONE}"}.items():
            classifier = self.out / f"classifier-{name}"
            for left in (classifier, classifier.with_name(f"{classifier.name}.training")):
                shutil.rmtree(left, ignore_errors=True)  # by an interrupted step: its time is lost
            given = [f"--release={self.out / release}", f"--out={classifier}"]
            given += self._trusting(*self._names(), key="cloud")
            spent = _run(sys.executable, "-m", "experiments.train_cloud", *given)
            yield _row(f"train_cloud, {name}", spent, "s")
        size = sum(path.stat().st_size for path in (self.out / "classifier-all").iterdir())
        yield _row("classifier", size / 2**20, "MiB")

    def predictions(self) -> Iterator[dict[str, Any]]:
        """By the first contributor's device, of pictures that nobody released."""
        pictures = self.out / "pictures" / "test"
        self._save(self.parts.test, pictures)
        for name in ("all", "one"):
            table = self.out / f"predictions-{name}.csv"
            table.unlink(missing_ok=True)
            given = [f"--images=folder:{pictures}", f"--out={table}"]
            given.append(f"--classifier={self.out / f'classifier-{name}'}")
            given += self._trusting("planner", "cloud")
            spent = _run(_PYTHON.value, self._package(0) / "privynet.pyz", "predict", *given)
            with table.open(newline="", encoding="utf-8") as file:
                lines = [*csv.DictReader(file)]
            right = np.array([Path(row["picture"]).parts[0] == row["class"] for row in lines])
            # As `_save` names them; the lines are in another order.
            numbers = np.array([int(Path(row["picture"]).stem) for row in lines])
            found = bootstrap(right.astype(float), mean_of, self.parts.test.clusters(numbers))
            value, *ends = (100 * each for each in (found.value, found.low, found.high))
            yield _row(f"accuracy, {name}", value, "%", *ends)
        yield _row("predict", 1000 * spent / len(lines), "ms a picture")

    def clouds_attack(self) -> Iterator[dict[str, Any]]:
        """Class `public`, with the cloud's own pictures of the same kind."""
        yield from self._attacked(_CLOUD, self.parts.auxiliary)

    def thiefs_attack(self) -> Iterator[dict[str, Any]]:
        """With the package and the pictures of the first contributor, and those of the cloud."""
        yield from self._attacked(_THIEF, _together([self.parts.auxiliary, self.mine[0]]))

    def _attacked(self, name: str, owned: Part) -> Iterator[dict[str, Any]]:
        others = _together(self.mine[1:])
        parts = dataclasses.replace(
            self.parts,
            auxiliary=owned,
            test=others,
            fingerprint=hashlib.sha256(f"{self.parts.fingerprint} {name}".encode()).hexdigest(),
        )
        trained = attackers_schedule(Schedule(**self.plan.settings["attacker"]))
        training = Training(Budget(trained.steps, batch_size=trained.batch_size))
        chosen = spread_over_classes(others.labels, cli.ATTACKED_IMAGES.value or None)
        protocol = Protocol(attacks=named_attacks((name,), training), attacked=chosen)
        with private_folder(cli.folder("cache_dir", cli.CACHE_DIR.value), "rehearsal") as cache:
            scene = make_scenario(
                cli.weights_of(self.plan), parts, self.plan.topology, cache, dtype=_DTYPE
            )
            [found] = measure([Cell(self.plan.topology, 0)], [scene], protocol, cli.SEED.value)
        values, sources = found.attacks[name]["test"]["psnr_db"], others.clusters(chosen)
        for what, of in {"mean": mean_of, "p95": p95_of}.items():
            psnr = bootstrap(values, of, sources)
            yield _row(f"{name}, {what}", psnr.value, "dB", psnr.low, psnr.high)

    def _package(self, number: int) -> Path:
        return self.out / "packages" / f"{number:02d}"

    def _names(self) -> list[str]:
        return [f"{number:02d}" for number in range(len(self.mine))]

    def _key(self, name: str) -> PrivateKey | None:
        """Somebody's, made when it is first asked for."""
        if not _SIGNED.value:
            return None
        path = self.out / "keys" / name
        if path.with_suffix(PRIVATE).exists():
            return read_private(path.with_suffix(PRIVATE))
        path.parent.mkdir(0o700, exist_ok=True)
        return make_keys(path)

    def _trusting(self, *names: str, key: str = "") -> list[str]:
        """Flags of who takes what these people signed, and signs."""
        if not _SIGNED.value:
            return ["--unsigned"]
        for name in filter(None, (*names, key)):
            self._key(name)
        folder = self.out / "keys"
        trusted = ",".join(f"{folder / name}{PUBLIC}" for name in names)
        return [f"--trusted={trusted}", *([f"--key={folder / key}{PRIVATE}"] if key else [])]

    def _save(self, part: Part, folder: Path) -> None:
        if part.several is not None:
            raise UserError(
                f"--images={self.parts.name} may have several labels each; rehearsals are of one "
                "class for each picture; give a folder with a subfolder per class"
            )
        if folder.exists():
            return
        with appears_whole(folder) as partial:
            for number, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
                path = partial / self.parts.class_names[label] / f"{number:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)

    def _release(self, number: int) -> float:
        release = self.out / "releases" / f"{number:02d}"
        shutil.rmtree(release, ignore_errors=True)  # by an interrupted step: its time is lost
        release.with_suffix(".tar").unlink(missing_ok=True)
        given = [f"--images=folder:{self.out / 'pictures' / f'{number:02d}'}", f"--out={release}"]
        given += self._trusting("planner", key=self._names()[number])
        program = self._package(number) / "privynet.pyz"
        spent = _run(_PYTHON.value, program, "extract", f"--dtype={_DTYPE}", *given)
        tar = release.with_suffix(".tar")
        os.replace(tar, self.out / _RELEASES / tar.name)  # handed over
        return spent


def _together(parts: Sequence[Part]) -> Part:
    arrays = zip(*((p.images, p.labels, p.groups, p.sources) for p in parts), strict=True)
    return Part(*(None if each[0] is None else np.concatenate(each) for each in arrays))


def _run(*command: Any) -> float:
    """Returns how many seconds a command took."""
    began = time.perf_counter()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(map(str, command[:4]))} failed: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - began


if __name__ == "__main__":
    cli.run(main, continues=True)

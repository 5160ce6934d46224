"""The program of a package, run as on a device: with NumPy, Pillow and onnxruntime alone."""

import csv
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from support import package_samples as samples
from support.handmade_classifier import handmade_classifier
from support.handmade_package import contents, fill

from privynet_jax.deployment.cloud.classifier import save_classifier
from privynet_jax.deployment.device.device_commands import predict_pictures
from privynet_jax.deployment.device.program_archive import WHEEL, program_archive
from privynet_jax.deployment.device.release_commands import ExtractSettings, extract
from privynet_jax.deployment.release.release_folder import open_release


def trusting(arguments):
    """Takes what nobody signed, unless they say whom to trust; --trust stands for nobody."""
    if not arguments or arguments[0] not in ("extract", "predict", "revoke"):
        return arguments
    if arguments[-1] == "--trust":
        return arguments[:-1]
    given = any("--trusted" in one for one in arguments)
    return arguments if given else (*arguments, "--unsigned")


@pytest.fixture
def device(folders, tmp_path):
    """Runs the program of a package on a folder with pictures; returns status and output."""
    package = folders[32, "float32"]
    saved = fill(tmp_path / "photos", {"cat": 5, "Bücher": 3, "dog": 4}, size=40)
    (tmp_path / "photos" / "dog" / "broken.png").write_bytes(b"no picture")
    save_classifier(tmp_path / "classifier", handmade_classifier((16, 16, 3)))

    def run(*arguments, home=tmp_path / "home"):
        arguments = trusting(arguments)
        script = f"""
import os; os.environ["HOME"] = {str(home)!r}
sys.argv = [{str(package / "privynet.pyz")!r}, *{arguments!r}]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
        return samples.run_alone(script, cwd=tmp_path)

    run.package, run.pictures = package, saved
    return run


def test_it_releases_what_is_new_and_revokes(device, tmp_path):
    shutil.rmtree(tmp_path / "photos" / "Bücher")
    (tmp_path / "photos" / "dog" / "broken.png").unlink()
    done = device("extract", "--images=folder:photos", "--out=first")
    assert "has 9 rows" in done.stdout, done.stderr
    fill(tmp_path / "photos", {"dog": 1}, size=50)
    done = device("extract", "--images=folder:photos", "--out=second", "--earlier=first.tar")
    assert "has 1 rows" in done.stdout, done.stderr
    assert "9 pictures were released before, or revoked, and left out" in done.stdout
    shutil.copytree(tmp_path / "photos" / "dog", tmp_path / "dogs")
    given = ("--images=folder:dogs", "--release=first.tar,second")
    done = device("revoke", *given, "--out=revocation.json")
    assert "5 rows of 2 releases are revoked" in done.stdout, done.stderr
    done = device("extract", "--images=folder:photos", "--out=third", "--revoked=revocation.json")
    assert "has 5 rows" in done.stdout, done.stderr
    done = device("revoke", *given, "--out=revocation.json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.slow
def test_the_wheel_is_installed_and_is_the_same(folders, tmp_path):
    """By pip, without an index."""
    package = folders[32, "float32"]
    place = tmp_path / "place"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    wheel = package / WHEEL
    done = subprocess.run([*pip, f"--target={place}", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (place / "bin" / "privynet-device").exists()
    script = f"""
import sys
sys.path.insert(0, {str(place)!r})
sys.argv = ["privynet-device", "check", {f"--package={package}"!r}]
import privynet_jax
from privynet_jax.deployment.device.program import main
assert privynet_jax.__file__.startswith({str(place)!r})
main()
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True)
    assert (done.returncode, "is whole and works" in done.stdout) == (0, True), done.stderr
    # What the program needs, other tests say.
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(package / "privynet.pyz") as program:
        sources = {name for name in program.namelist() if name != "__main__.py"}
        assert {name for name in archive.namelist() if "dist-info" not in name} == sources
        for name in sources:
            assert archive.read(name) == program.read(name)


def test_it_checks_and_times(device):
    done = device("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "The package is whole and works: images [32, 32, 3] to representations [16, 16, 3]. "
        "Whose it is, --trusted tells.\n"
    )
    done = device("time")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"takes \d+\.\d\d ms on one thread of .*; the process took \d{2,3} MiB", done.stdout
    )


def test_it_releases_and_predicts_as_the_library_does(device, tmp_path):
    done = device(
        *("extract", "--images=folder:photos", "--out=release", "--dtype=float16"),
        *("--skip_unreadable", "--order_out=order.csv"),
    )
    assert done.returncode == 0, done.stderr
    assert "has 12 rows of 16 x 16 x 3 float16, shuffled, with labels; 1 pictures" in done.stdout
    pictures = f"folder:{tmp_path / 'photos'}"
    settings = ExtractSettings(dtype="float16", skip_unreadable=True)
    extract(device.package, pictures, tmp_path / "here", settings)
    assert contents(tmp_path / "release") == contents(tmp_path / "here")
    assert len(open_release(tmp_path / "release")) == 12
    done = device(
        *("predict", "--images=folder:photos", "--classifier=classifier", "--out=there.csv"),
        "--skip_unreadable",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The predictions are in there.csv.\n"
    classifier = tmp_path / "classifier"
    predict_pictures(
        device.package, pictures, classifier, tmp_path / "here.csv", skip_unreadable=True
    )
    there, here = (
        list(csv.reader((tmp_path / name).read_text(encoding="utf-8").splitlines()))
        for name in ("there.csv", "here.csv")
    )
    assert there == here
    assert len(there) == 13


REFUSED = [
    ((), "the following arguments are required: command; see"),
    (("extract",), "--images, --out; see"),
    (("release",), "invalid choice: 'release'"),
    (("check", "--package=none"), "none/local_nn.json cannot be read: No such file"),
    (("extract", "--images=folder:photos", "--out=out"), "broken.png: it is no image"),
    (("extract", "--images=folder:none", "--out=out"), "none is no folder"),
    (("predict", "--images=photos", "--classifier=c", "--out=x.csv"), "give folder:PATH"),
    (
        ("predict", "--images=folder:photos", "--classifier=photos", "--out=x.csv"),
        "without classifier.json",
    ),
    (("extract", "--images=photo_patches", "--out=out"), "photo_patches"),
    (("extract", "--images=folder:photos", "--out="), "--out: it names nothing"),
    (
        ("extract", "--images=folder:photos", "--out=out", "--sixteen_bit_max=70000"),
        "--sixteen_bit_max is 70000; allowed are 0 to 65535",
    ),
    (("check", "--package=~nobody-has-this-name"), "unknown home"),
    (("check", "--trusted=photos"), "photos holds no .pub"),
    (("keys", "--out=me"), "pip install 'cryptography>=47', or leave out the flags"),
    (("keys",), "give --out=NAME to make keys, or --show=FILE.pub"),
    (("extract", "--images=folder:photos", "--out=out", "--trust"), "is not signed"),
    (("revoke", "--images=folder:photos", "--release=r", "--out=x.csv", "--trust"), "is not si"),
    (
        ("predict", "--images=folder:photos", "--classifier=c", "--out=x.csv", "--trust"),
        "local_nn.json is not signed; ask whoever made it to sign it, or give --unsigned",
    ),
    (
        ("extract", "--images=folder:photos", "--out=out", "--trusted="),
        "--trusted: it names nothing",
    ),
]
_ONE_AFTER_ANOTHER = """
import contextlib, io, json, os
os.environ["HOME"] = {home!r}
ended = []
for arguments in {calls!r}:
    sys.argv = [{program!r}, *arguments]
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as status:
            ended.append((status.code, output.getvalue(), error.getvalue()))
print(json.dumps(ended))
"""


def test_bad_input_is_one_line(device, tmp_path):
    """All in one process, as each takes a second to begin."""
    calls = [trusting(arguments) for arguments, _ in REFUSED]
    program, home = str(device.package / "privynet.pyz"), str(tmp_path / "home")
    script = _ONE_AFTER_ANOTHER.format(calls=calls, program=program, home=home)
    done = samples.run_alone(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for (arguments, message), ended in zip(REFUSED, json.loads(done.stdout), strict=True):
        status, output, error = ended
        assert (status, output, error.count("\n")) == (1, "", 1), (arguments, error)
        assert error.startswith("error: "), arguments
        assert message in error
    assert not {"out", "x.csv"} & {path.name for path in tmp_path.iterdir()}


def test_homes_are_expanded_and_nothing_is_noted_about_what_was_done(device, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "photos" / "dog" / "broken.png").unlink()
    done = device("extract", "--images=folder:photos", "--out=~/release", home=home)
    assert done.returncode == 0, done.stderr
    assert f"Hand over {home / 'release.tar'} and nothing else" in done.stdout
    # onnxruntime's telemetry, for one, would write down how many pictures there were, and when.
    assert {path.name for path in home.iterdir()} == {"release", "release.tar"}


def test_what_is_not_installed_is_told(folders, tmp_path):
    """As on a new device: Python, and nothing else."""
    program = folders[32, "float32"] / "privynet.pyz"
    command = [sys.executable, "-I", "-S", str(program), "check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    told = "error: there is no numpy here; pip install numpy pillow onnxruntime\n"
    assert done.stderr == told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_nothing_half_written(device, tmp_path, number):
    script = f"""
import os
sys.path.insert(0, {str(device.package / "privynet.pyz")!r})
from privynet_jax.deployment.device import device_commands, program

def stopped(*_):
    yield [("a",)], device_commands.np.ones((1, 3)) / 3
    os.kill(os.getpid(), {int(number)})
    yield [], device_commands.np.ones((0, 3))

device_commands._predicted = stopped
sys.argv = ["x", "predict", "--package={device.package}", "--images=folder:photos"]
sys.argv += ["--classifier=classifier", "--out=new.csv", "--unsigned"]
program.main()
"""
    done = samples.run_alone(script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == "stopped; run the same command again from the start\n"
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]


def test_the_archive_is_the_same_every_time_and_holds_what_is_needed_alone(folders):
    archives = {(folder / "privynet.pyz").read_bytes() for folder in folders.values()}
    assert archives == {program_archive()}
    with zipfile.ZipFile(folders[32, "float32"] / "privynet.pyz") as archive:
        names = archive.namelist()
    rooms = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert rooms == {"deployment", "images", "mechanisms", "platform", "results", "training"}
    assert [n for n in names if "/mechanisms/" in n and "__init__" not in n] == [
        "privynet_jax/mechanisms/on_device.py"
    ]
    assert not [n for n in names if "cloud_training" in n or "cloud_graph" in n or "tfds" in n]


def test_python_imports_from_it_as_the_readme_says(folders, tmp_path):
    folder = folders[32, "float32"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    lines = itertools.dropwhile(lambda line: "sys.path" not in line, text.splitlines())
    code = [line.strip() for line in itertools.takewhile(str.strip, lines)]
    images = samples.images(2, 32)
    np.save(tmp_path / "images.npy", images)
    body = "\n".join(
        [
            f"import os, numpy as np; images = np.load('images.npy'); os.chdir({str(folder)!r})",
            *code,
            f"np.save({str(tmp_path / 'out.npy')!r}, representations)",
        ]
    )
    done = samples.run_alone(body, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out.npy").shape == (2, 16, 16, 3)

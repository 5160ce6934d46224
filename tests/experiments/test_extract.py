"""The command that releases pictures: what it writes, what it says, and what it refuses."""

import os
import shutil
import signal

import numpy as np
import pytest
from support.handmade_package import CLASS_IDS, contents, fill, handmade_package

from experiments import extract
from privynet_jax.deployment.device import release_commands
from privynet_jax.deployment.release import release_manifest, release_rows
from privynet_jax.deployment.release.release_folder import ReleaseWriter, open_release
from privynet_jax.errors import UserError
from privynet_jax.platform import signals


@pytest.fixture
def command(run_command, monkeypatch):
    """Runs the command; returns its exit status, output and last line of errors."""
    monkeypatch.setattr(release_manifest, "_MOST_ROWS", 4)

    def run(*arguments):
        done = run_command(extract, *arguments)
        return done.status, done.output, (done.error.splitlines() or [""])[-1]

    return run


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A package, pictures of three classes, and where the release goes, as arguments."""
    fill(tmp_path / "photos", {"bird": 4, "cat": 5, "dog": 4})
    (tmp_path / "package").mkdir()
    opened = []
    monkeypatch.setattr(
        release_commands,
        "open_package",
        lambda folder, **_: opened.append(folder) or handmade_package(),
    )
    yield [
        f"--package={tmp_path / 'package'}",
        f"--images=folder:{tmp_path / 'photos'}",
        f"--out={tmp_path / 'out'}",
        "--unsigned",
    ]
    assert set(opened) <= {tmp_path / "package"}


def test_pictures_become_a_release(command, places, tmp_path):
    status, out, _ = command(*places)
    assert status == 0
    assert "has 13 rows of 8 x 8 x 5 float32, shuffled, with labels; 0 pictures were" in out
    assert f"Hand over {tmp_path / 'out.tar'} and nothing else" in out
    release = open_release(tmp_path / "out")
    assert (len(release), release.dtype, len(release.classes)) == (13, "float32", 3)
    assert np.bincount(release.labels).tolist() == [4, 5, 4]
    assert sorted(os.listdir(tmp_path)) == ["out", "out.tar", "package", "photos"]
    before = contents(tmp_path / "out")
    assert command(*places)[0] == 0
    assert contents(tmp_path / "out") == before


def test_a_copy_is_left_out_and_told(command, places, tmp_path, caplog):
    for number, label in enumerate(("cat", "dog")):
        shutil.copy(
            tmp_path / "photos/cat/holiday_004.png", tmp_path / f"photos/{label}/{number}.png"
        )
    status, out, _ = command(*places)
    assert status == 0
    assert "has 13 rows of 8 x 8 x 5 float32" in out
    assert "2 copies left out" in out
    assert "1 pictures are copies of one with another label" in caplog.text
    assert "Look at the 1 pictures first that another class has too, named above" in out
    assert "Hand over" not in out
    (tmp_path / "photos/dog/1.png").unlink()
    status, out, _ = command(*places[:2], places[-1], f"--out={tmp_path / 'sorted'}")
    assert (status, "1 copies left out" in out, "Hand over" in out) == (0, True, True)
    assert len(open_release(tmp_path / "out")) == 13


def test_what_two_releases_of_one_package_tell_whoever_has_both(command, places, tmp_path):
    """Equal pictures give equal rows: one picture more is one row more, and its class is told."""

    def released(name, *flags_given):
        assert command(*places[:2], places[-1], f"--out={tmp_path / name}", *flags_given)[0] == 0
        return rows_of(tmp_path / name)

    rows, labels = released("out")
    (tmp_path / "photos/cat/holiday_008.png").unlink()
    fewer, _ = released("fewer")
    [more] = set(rows) - set(fewer)
    assert len(fewer) == len(rows) - 1
    assert labels[rows.index(more)] == np.bincount(labels).argmax()  # of cats are the most
    unlabelled, nothing = released("unlabelled", "--nolabelled")
    assert (sorted(unlabelled), nothing) == (sorted(fewer), None)


def rows_of(folder):
    release = open_release(folder)
    return [row.tobytes() for row in release.representations[:]], release.labels


def test_every_flag_does_something(command, places, tmp_path):
    (tmp_path / "photos" / "cat" / "broken.jpg").write_bytes(b"no picture")
    order = f"--order_out={tmp_path / 'order.csv'}"
    flags_given = ["--dtype=uint8", "--nolabelled", "--skip_unreadable", order]
    status, out, _ = command(*places, *flags_given)
    assert status == 0
    assert "13 rows of 8 x 8 x 5 uint8, shuffled, without labels; 1 pictures were skipped" in out
    release = open_release(tmp_path / "out")
    assert (len(release), release.dtype, release.labels) == (13, "uint8", None)
    lines = (tmp_path / "order.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("row,picture,mark", 14)
    assert "broken" not in "".join(lines)
    # As experiments.predict names pictures.
    assert {line.split(",")[1] for line in lines[1:]} == {
        path.relative_to(tmp_path / "photos").as_posix()
        for path in (tmp_path / "photos").rglob("*.png")
    }


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"package": None}, "no --package is given"),
        ({"images": None}, "no --images is given"),
        ({"out": None}, "no --out is given"),
        ({"images": "folder:missing"}, "missing is no folder"),
        ({"images": "photo_patchez"}, "cannot open the data set 'photo_patchez'"),
        ({"dtype": "int8"}, "--dtype"),
        ({"split": "test"}, "has no test split"),
        ({"split": "training"}, "--split"),
        ({"order_out": "{tmp}/out/order.csv"}, "would leave the device with it"),
        ({"order_out": "{tmp}/photos/order.csv"}, "would pass for one"),
        ({"out": "{tmp}/package/release"}, "which stays here"),
        ({"out": "{tmp}/photos/cat/holiday_005.png"}, "is not a folder"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_nothing_is_written(command, places, tmp_path, changed, expected):
    given = dict(place.removeprefix("--").split("=", 1) for place in places if "=" in place)
    changed = {k: v and v.replace("{tmp}", str(tmp_path)) for k, v in changed.items()}
    arguments = [f"--{k}={v}" for k, v in (given | changed).items() if v is not None]
    arguments.append("--unsigned")
    before = sorted(tmp_path.rglob("*"))
    status, out, errors = command(*arguments)
    assert (status, out) == (1, "")
    assert errors.startswith("error: ")
    assert expected in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_release_needs_no_four_pictures_of_each_class(command, places, tmp_path):
    fill(tmp_path / "new", {"bird": 1, "dog": 2})
    status, output, _ = command(*places, f"--images=folder:{tmp_path / 'new'}")
    assert status == 0
    assert "has 3 rows" in output
    release = open_release(tmp_path / "out")
    # Numbers are those of the classes that occur.
    assert sorted(release.labels.tolist()) == [0, 1, 1]
    assert release.classes == (CLASS_IDS["bird"], CLASS_IDS["dog"])


@pytest.mark.parametrize("classes", [{"": 3}, {"bird": 2, "fish": 2}, {"bird": 2, "cat": 0}])
def test_where_there_are_no_labels_the_way_without_is_named(command, places, tmp_path, classes):
    fill(tmp_path / "new", classes)
    images = f"--images=folder:{tmp_path / 'new'}"
    status, output, error = command(*places, images)
    assert (status, output) == (1, "")
    assert error.startswith("error: ")
    assert "give --nolabelled" in error
    assert not (tmp_path / "out").exists()
    assert command(*places, images, "--nolabelled")[0] == 0


def test_an_unreadable_picture_is_named_once(command, places, tmp_path):
    (tmp_path / "photos" / "dog" / "broken.jpg").write_bytes(b"no picture")
    status, _, errors = command(*places)
    assert status == 1
    assert "broken.jpg" in errors
    assert "--skip_unreadable" in errors
    assert command(*places, "--skip_unreadable")[0] == 0
    assert len(open_release(tmp_path / "out")) == 13


def test_a_damaged_package_is_told_in_one_line(command, places, tmp_path, monkeypatch):
    def damaged(folder, **_):
        raise UserError(f"{folder} is damaged")

    monkeypatch.setattr(release_commands, "open_package", damaged)
    assert command(*places)[2] == f"error: {tmp_path / 'package'} is damaged"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_same_command_continues(command, places, tmp_path, monkeypatch, number):
    undisturbed = [*places[:2], places[-1], f"--out={tmp_path / 'undisturbed'}"]
    assert command(*undisturbed)[0] == 0
    real, shards = ReleaseWriter.write, []

    def write(self, index, rows):
        shards.append(index)
        if len(shards) == 3:
            os.kill(os.getpid(), number)
        real(self, index, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ReleaseWriter, "write", write)
        status, _, errors = command(*places)
    assert status == 128 + number
    assert "run the same command again to continue" in errors
    with pytest.raises(UserError, match="is incomplete; run extract again"):
        open_release(tmp_path / "out")
    computed, of_pictures = [], release_rows.decode_or_skip
    monkeypatch.setattr(
        release_rows, "decode_or_skip", lambda *args: computed.append(1) or of_pictures(*args)
    )
    assert command(*places)[0] == 0
    assert len(computed) == 13 - 2 * 4
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    assert not signals._deferring

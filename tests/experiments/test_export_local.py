"""The command that writes packages: what it writes and says, and what it refuses."""

import functools
import json
import re

import pytest
from support import package_samples as samples

from experiments import export_local as command
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.planning.plan import write_plan

TOPOLOGY = Topology(2, (1, 5, 60))


@pytest.fixture
def export_local(run_command, test_data_dir):
    """Runs the command in this process; returns its exit status, output and errors."""
    return functools.partial(run_command, command, f"--cache_dir={test_data_dir / 'weights'}")


def assert_refused(found, message):
    status, out, err = found
    assert (status, out) == (1, "")
    assert re.fullmatch(r"error: [^\n]*\n", err)
    assert re.search(message, err)


def test_an_attacker_needs_a_page(export_local, vgg_weights, tmp_path):
    write_plan(tmp_path / "plan.json", samples.plan(vgg_weights, TOPOLOGY, 32))
    arguments = (f"--plan={tmp_path / 'plan.json'}", f"--out={tmp_path / 'device'}")
    found = export_local(*arguments, "--with_attacker=photo_patches")
    assert_refused(found, r"--with_attacker is for the page; give --page too")
    noisy = samples.plan(vgg_weights, TOPOLOGY, 32, mechanism="gaussian:clip=1,sigma=1")
    write_plan(tmp_path / "noisy.json", noisy)
    arguments = (f"--plan={tmp_path / 'noisy.json'}", f"--out={tmp_path / 'device'}", "--page")
    for more in ((), ("--with_attacker=photo_patches",)):
        assert_refused(export_local(*arguments, *more), r"leave --page out")
    assert not (tmp_path / "device").exists()


def test_a_plan_becomes_a_package(export_local, vgg_weights, tmp_path):
    plan = samples.plan(vgg_weights, TOPOLOGY, 32)
    write_plan(tmp_path / "plan.json", plan)
    out = tmp_path / "new" / "device"
    arguments = (f"--plan={tmp_path / 'plan.json'}", f"--out={out}", "--weights_dtype=float16")
    status, text, err = export_local(*arguments)
    assert status == 0, err
    package = open_package(out)
    assert package.shape == (32, 32, 3)
    assert "2 layers of vgg16 to conv1_2, images 32x32x3 to representations 32x32x3." in text
    secret = json.loads((out / "local_nn.json").read_text(encoding="utf-8"))["release_seed"]
    assert secret not in text
    assert plan.selection.seed not in text
    everything = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.*"))}
    assert_refused(export_local(*arguments), "device exists already; give a new folder")
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.*"))} == everything


def test_other_weights_than_the_plan_s_are_refused(export_local, vgg_weights, tmp_path):
    other = "ab" * 32
    plan = samples.plan(vgg_weights, TOPOLOGY, 32, weights_fingerprint=other)
    write_plan(tmp_path / "plan.json", plan)
    found = export_local(f"--plan={tmp_path / 'plan.json'}", f"--out={tmp_path / 'device'}")
    message = f"embedded have fingerprint {vgg_weights.fingerprint}, .* with {other} .*--weights"
    assert_refused(found, message)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_weights_of_the_flag_replace_the_plan_s_source(export_local, vgg_weights, tmp_path):
    plan = samples.plan(vgg_weights, TOPOLOGY, 32, weights=str(tmp_path / "gone"))
    write_plan(tmp_path / "plan.json", plan)
    given = (f"--plan={tmp_path / 'plan.json'}", f"--out={tmp_path / 'device'}")
    assert_refused(export_local(*given), "gone', and there is no such file or folder")
    assert export_local(*given, "--weights=embedded")[0] == 0
    assert open_package(tmp_path / "device").shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plan=plan.json",), "no --out is given"),
        (
            ("--plan=none.json", "--out=device"),
            "none.json does not exist; give a file",
        ),
        (
            ("--plan=x", "--out=y", "--weights_dtype=int8"),
            "flag --weights_dtype=int8: .*<float32|float16>.*--help",
        ),
    ],
    ids=["no out", "no plan", "bad type"],
)
def test_bad_flags(export_local, tmp_path, arguments, message):
    places = [argument.replace("out=", f"out={tmp_path}/") for argument in arguments]
    assert_refused(export_local(*places), message)
    assert not list(tmp_path.iterdir())

"""A folder for timing: measured on a device, read by plans, and refused where it is damaged."""

import re

import pytest
from support import package_samples as samples

from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device.timing import time_kit
from privynet_jax.deployment.device.timing_kit import write_timing_kit
from privynet_jax.errors import UserError
from privynet_jax.results.latencies import read_latencies


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits") / "kit"
    topologies = [Topology(m, range(d)) for m, d in ((2, 4), (1, 4), (2, 8))]
    write_timing_kit(folder, topologies, image_size=16)
    return folder


def test_a_device_measures_what_plans_read(kit, tmp_path):
    def run(*arguments):
        program = str(kit / "privynet.pyz")
        script = f"sys.argv = {[program, *arguments]!r}\n"
        script += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        return samples.run_alone(script, cwd=tmp_path)

    done = run("time", "--out=latency.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 networks were measured; latency.json is for plan --latency.\n"
    found = read_latencies(tmp_path / "latency.json")
    assert [(n.num_layers, n.depth) for n in found.networks] == [(1, 4), (2, 4), (2, 8)]
    assert (found.backbone, found.image_size) == ("vgg16", 16)
    for arguments, message in (
        (("time",), "no --out is given"),
        (("time", "--out=latency.json"), "exists already, and nothing is replaced"),
        (("check",), "local_nn.json cannot be read: No such file"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", done.stderr)


def test_what_is_damaged_is_told(kit, tmp_path):
    cases = (
        (lambda f: (f / "02-004.onnx").unlink(), "02-004.onnx is missing; copy"),
        (lambda f: (f / "02-004.onnx").write_bytes(b"?"), "02-004.onnx cannot be run"),
        (lambda f: (f / "timing.json").write_text("[]"), "is no list of networks; copy"),
    )
    for number, (damage, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in kit.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        damage(folder)
        with pytest.raises(UserError, match=message):
            time_kit(folder)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_latencies(tmp_path / "none.json")

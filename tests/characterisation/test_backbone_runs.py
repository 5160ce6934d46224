"""Every backbone from weights with torchvision's names to results; one of them on to a package."""

import json

import numpy as np
import pytest
from PIL import Image
from support import weight_samples as samples
from support.package_samples import run_alone

from experiments import characterize, export_local, plan
from privynet_jax.backbone.backbones import BACKBONES
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.reopening import reopen
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.errors import UserError
from privynet_jax.planning.plan import read_plan

SIZE = 32
TINY = {
    "image_size": SIZE,
    **{"depths": 3, "draws": 1, "cloud_width": 8, "trained_attackers": "residual"},
    **{"attacker_width": 8, "attacker_blocks": 0, "cloud_steps": 2, "attacker_steps": 2},
    **{"cloud_batch_size": 8, "attacker_batch_size": 8, "examples": 2},
    "max_images": "target=60,auxiliary=50,validation=20,test=20",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, photo_parts):
    """Backbone -> a file of random weights; pictures are read, as what reads them has flags too."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        name: samples.write_torch_zip(
            folder / f"{name}.pth",
            samples.torchvision_tensors(samples.random_layers(vgg=name), vgg=name),
        )
        for name in BACKBONES
    }


def flags_of(**values):
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_each_backbone_is_characterised(name, weights, run_command, tmp_path, test_data_dir):
    deepest = BACKBONES[name].cuts[-1]
    given = {
        **{"backbone": name, "weights": weights[name], "workdir": tmp_path / "run"},
        **{"cache_dir": tmp_path / "cache", "data_dir": test_data_dir},
    }
    done = run_command(characterize, *flags_of(**given, **TINY, layers=f"2,{deepest.number}"))
    assert done.status == 0, done.error
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["backbone"] == name
    found = reopen(
        tmp_path / "run",
        weights=str(weights[name]),
        cache_dir=tmp_path / "cache",
        data_dir=test_data_dir,
    )
    shallow, deep = found.results
    assert (shallow.layer, deep.layer) == (BACKBONES[name].cut(2).name, deepest.name)
    assert deep.cost["release_bytes"] == 4 * 2 * 2 * 3
    scene = found.scenario(deep)
    assert scene.topology.backbone == name
    assert Config.of_settings(settings, tmp_path).backbone == name
    other = "vgg13" if name == "vgg11" else "vgg11"
    with pytest.raises(UserError, match=f"the backbone is {name}"):
        reopen(tmp_path / "run", weights=str(weights[other]), cache_dir=tmp_path / "cache")
    if name != "vgg11":
        return
    _check_plan_and_package(given, run_command, tmp_path)


def _check_plan_and_package(given, run_command, folder):
    pictures, stream = folder / "pictures", np.random.default_rng(0)
    for index in range(16):
        path = pictures / ("cats", "dogs")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stream.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
    common = flags_of(weights=given["weights"], cache_dir=given["cache_dir"])
    planned = folder / "plan.json"
    done = run_command(
        plan,
        *common,
        *flags_of(workdir=given["workdir"], sample=f"folder:{pictures}", out=planned),
        *flags_of(max_latency_ms=10_000, attacked_images=0),
    )
    assert done.status == 0, done.error
    made = read_plan(planned)
    assert made.topology.backbone == "vgg11"
    done = run_command(export_local, *common, *flags_of(plan=planned, out=folder / "device"))
    assert done.status == 0, done.error
    assert f"layers of vgg11 to {made.topology.layer.name}" in done.output
    package = open_package(folder / "device")
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    assert package.represent(images).shape == (2, *made.topology.representation_shape(SIZE))
    alone = run_alone(
        f"sys.argv = [{str(folder / 'device' / 'privynet.pyz')!r}, 'check']\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')",
        cwd=folder,
    )
    assert alone.returncode == 0, alone.stderr

"""Another backbone from weights with torchvision's names to results, a plan and a package."""

import json

import numpy as np
import pytest
from PIL import Image
from support import weight_samples as samples
from support.package_samples import run_alone

from experiments import characterize, export_local, plan
from privynet_jax.backbone.backbones import VGG11
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.reopening import reopen
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.planning.plan import read_plan

SIZE = 32
TINY = {
    "image_size": SIZE,
    **{"depths": 3, "draws": 1, "cloud_width": 8, "trained_attackers": "residual"},
    **{"attacker_width": 8, "attacker_blocks": 0, "cloud_steps": 2, "attacker_steps": 2},
    **{"cloud_batch_size": 8, "attacker_batch_size": 8, "examples": 2},
    "max_images": "target=60,auxiliary=50,validation=20,test=20",
}


def flags_of(**values):
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.mark.slow
@pytest.mark.usefixtures("photo_parts")  # read before, as what reads them has flags too
def test_another_backbone_is_characterised_and_planned(run_command, tmp_path, test_data_dir):
    tensors = samples.torchvision_tensors(samples.random_layers(vgg="vgg11"), vgg="vgg11")
    weights = samples.write_torch_zip(tmp_path / "vgg11.pth", tensors)
    deepest = VGG11.cuts[-1]
    places = {"weights": weights, "cache_dir": tmp_path / "cache", "data_dir": test_data_dir}
    given = {"backbone": "vgg11", "workdir": tmp_path / "run", **places}
    done = run_command(characterize, *flags_of(**given, **TINY, layers=f"2,{deepest.number}"))
    assert done.status == 0, done.error
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["backbone"] == "vgg11"
    found = reopen(tmp_path / "run", **{**places, "weights": str(weights)})
    shallow, deep = found.results
    assert (shallow.layer, deep.layer) == (VGG11.cut(2).name, deepest.name)
    assert deep.cost["release_bytes"] == 4 * 2 * 2 * 3
    scene = found.scenario(deep)
    assert scene.topology.backbone == "vgg11"
    assert Config.of_settings(settings, tmp_path).backbone == "vgg11"
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

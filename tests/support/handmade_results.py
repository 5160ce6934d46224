"""Results of cells that nobody trained, for tests of what is made from results."""

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.topology import Topology
from privynet_jax.results.cell_results import AttackResult, CellResult
from privynet_jax.results.cells import Cell
from privynet_jax.results.statistics import Distribution, Interval
from privynet_jax.results.work_directory import FORMAT


def settings(**others):
    """What the `config.json` of a finished grid holds: two layers, two depths, two draws."""
    usual = {
        "backbone": "vgg16",
        "layers": [2, 4],
        "depths": [8, 16],
        "draws": 2,
        "selections": ["random"],
        "image_size": 32,
        "format": FORMAT,
        "seed": 0,
        "dataset": "photo_patches",
        "mode": "dedicated",
        "max_images": {},
        "examples": 4,
        "feature_dtype": "float16",
        "data_fingerprint": "def",
        "weights_fingerprint": "abc",
        "cloud": {"steps": 300},
        "attacker": {"steps": 500},
        "attackers": ["residual"],
    }
    return usual | others


def attack(attacker, psnr_db, ssim=0.5, gain=None):
    """An attacker's result; the statistics differ from one another, so that none passes for one.

    A gain by ten times the training is given with its interval.
    """
    return AttackResult(
        attacker=attacker,
        knowledge="pairs",
        psnr_db=_spread(psnr_db, 1, 5, 7, 9),
        ssim=_spread(ssim, 0.05, 0.2, 0.25, 0.3),
        validation_psnr_db=_spread(psnr_db - 0.25, 1, 5, 7, 9),
        validation_ssim=_spread(ssim - 0.01, 0.05, 0.2, 0.25, 0.3),
        gain_db=gain and Interval(*gain),
    )


def _spread(mean, *above):
    return Distribution(mean, *(mean + step for step in above))


def cell(num_layers=2, depth=3, draw=0, accuracy=0.5, attacks=None, selection="random"):
    """A cell's result; its channels are simply the first ones."""
    return CellResult(
        name=Cell(Topology(num_layers, range(depth)), draw, selection).name,
        num_layers=num_layers,
        layer=VGG16.cuts[num_layers - 1].name,
        depth=depth,
        selection=selection,
        draw=draw,
        channels=tuple(range(depth)),
        accuracy=accuracy,
        validation_accuracy=accuracy + 0.01,
        balanced_accuracy=accuracy - 0.05,
        validation_balanced_accuracy=accuracy - 0.04,
        commonest_class_share=0.125,
        validation_commonest_class_share=0.25,
        attacks=attacks or (attack("linear", 12.0), attack("residual", 20.0)),
        cost={
            "local_macs": 1_500_000 * num_layers,
            "local_param_bytes": 7000,
            "local_activation_bytes": 9000,
            "release_bytes": 1024 * depth,
        },
        environment="jax 1.2.3 on an abacus",
        train_seconds=1.23456,
    )

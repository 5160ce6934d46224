"""A plan for tiny pictures of noise, and networks that train within seconds: for audits."""

from privynet_jax.backbone.topology import Topology
from privynet_jax.planning.plan import Expectation, Limits
from privynet_jax.results.statistics import Interval
from privynet_jax.selection.secret_draw import Selection, entropy_bits
from support import package_samples
from support.handmade_package import fill

IMAGE_SIZE, DEPTH = 16, 3
PER_CLASS = 24
# Of the audited parts, and of the attackers that are trained on them.
PARTS_SEED = 5
SEED = "c7" * 32
CANDIDATES = (4, 9, 17, 30, 41, 63)
# As a work directory's config.json has them.
SETTINGS = {
    "seed": 0,
    "layers": [2],
    "depths": [DEPTH],
    "selections": ["both"],
    "cloud": {"steps": 2, "batch_size": 8, "learning_rate": 2e-3},
    "attacker": {"steps": 3, "batch_size": 4, "learning_rate": None},
    "cloud_width": 8,
    "attackers": ["residual"],
    "attacker_width": 8,
    "attacker_blocks": 1,
}


def pictures(folder):
    """Two classes of pictures; returns what --data takes."""
    fill(folder, {"cats": PER_CLASS, "dogs": PER_CLASS}, IMAGE_SIZE)
    return f"folder:{folder}"


def plan(weights, **changes):
    """A plan of two layers, with limits that nothing breaks and channels drawn from six."""
    selection = Selection("both", CANDIDATES, SEED, entropy_bits(len(CANDIDATES), DEPTH))
    fields = {
        "selection": selection,
        "limits": Limits(psnr_db=90.0, ssim=1.0, local_mmacs=1000.0),
        "expected": Expectation(
            accuracy=Interval(0.5, 0.4, 0.6),
            balanced_accuracy=Interval(0.45, 0.4, 0.5),
            psnr_db=Interval(12.0, 11.0, 13.0),
            ssim=Interval(0.3, 0.2, 0.4),
            commonest_class_share=0.5,
        ),
        "class_names": ("cats", "dogs"),
        "characterised": {"settings": SETTINGS},
    }
    topology = Topology(2, selection.channels(DEPTH))
    return package_samples.plan(weights, topology, IMAGE_SIZE, **{**fields, **changes})

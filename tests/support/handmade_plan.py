"""A plan out of thin air, for tests of what is kept of plans and read from them."""

from privynet_jax.backbone.topology import Topology
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.planning.plan import Expectation, Limits, Measured, Plan, Promise
from privynet_jax.results.statistics import Interval
from privynet_jax.selection.secret_draw import Selection, entropy_bits

SEED = "0123456789abcdef" * 4


def plan():
    """A plan that nobody measured; weights and pictures are needed for none of it."""
    candidates = tuple(range(0, 128, 3))
    selection = Selection("both", candidates, SEED, entropy_bits(len(candidates), 4))
    return Plan(
        id="1d" * 32,
        topology=Topology(4, selection.channels(4)),
        selection=selection,
        limits=Limits(psnr_db=20, local_mmacs=300.5, statistic="p95"),
        expected=Expectation(
            accuracy=Interval(0.6, 0.55, 0.65),
            balanced_accuracy=Interval(0.5, 0.4, 0.6),
            psnr_db=Interval(18.0, 17.0, 19.5),
            ssim=Interval(0.4, 0.3, 0.5),
            commonest_class_share=0.7,
            psnr_db_limit=Interval(19.0, 18.0, 21.5),
        ),
        image_size=32,
        class_names=("dog", "κάτι"),
        scales=(0.1, 1 / 3, 2.0, 1e-7),
        peaks=(16.0, 17.5, 300.0, 16.0),
        mechanism="none",
        unit=1.0,
        epsilon=None,
        weights="embedded",
        weights_fingerprint="ab" * 32,
        latency_ms=12.5,
        latency_on="2 cores",
        characterised={"settings": {"seed": 0, "fractions": [0.5, {"a": None}]}, "draws": 2},
        measured=Measured("public", 18.5, 0.41, images=64, draws=3),
        promise=Promise(episodes=31, kept=30, proven=0.85),
        sample=("00ff", "11ee"),
        reading=Reading(),
    )

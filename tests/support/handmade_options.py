"""Options that nobody characterised, for tests of what is chosen among them."""

from privynet_jax.planning.options import Option
from privynet_jax.planning.plan import Expectation
from privynet_jax.results.statistics import Interval


def option(
    num_layers=2,
    depth=8,
    accuracy=0.5,
    psnr_db=18.0,
    ssim=0.5,
    *,
    mmacs=10.0,
    latency=None,
    balanced=None,
    commonest=0.1,
    further=None,
):
    """An option whose upper ends are 2 dB and 0.1 above what is expected.

    With ten times the training, attackers reach so much further, give or take 1 dB.
    """
    limit = None if further is None else Interval(*(psnr_db + further + x for x in (0, -1, 1)))
    balanced = accuracy if balanced is None else balanced
    return Option(
        num_layers=num_layers,
        depth=depth,
        selection="random",
        draws=2,
        expected=Expectation(
            accuracy=Interval(accuracy, accuracy - 0.05, accuracy + 0.05),
            balanced_accuracy=Interval(balanced, balanced - 0.05, balanced + 0.05),
            commonest_class_share=commonest,
            psnr_db=Interval(psnr_db, psnr_db - 2, psnr_db + 2),
            ssim=Interval(ssim, ssim - 0.1, ssim + 0.1),
            psnr_db_limit=limit,
        ),
        cost={"local_mmacs": mmacs, "storage_mib": 0.25 * num_layers, "release_kib": 4.0 * depth}
        | ({} if latency is None else {"latency_ms": latency}),
        tested={
            "accuracy": accuracy - 0.01,
            "balanced_accuracy": balanced - 0.02,
            "psnr_db": psnr_db + 0.25,
            "ssim": ssim + 0.01,
        },
    )


def table():
    """Five options: more accuracy goes with more privacy loss, or with more computation."""
    return [
        option(2, 8, 0.60, 24.0, 0.70, mmacs=5.0),
        option(2, 16, 0.70, 28.0, 0.80, mmacs=10.0),
        option(4, 8, 0.55, 20.0, 0.55, mmacs=60.0),
        option(4, 16, 0.65, 22.5, 0.60, mmacs=65.0),
        option(7, 16, 0.58, 16.0, 0.40, mmacs=150.0),
    ]

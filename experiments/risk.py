"""Who is at risk: privacy loss of a finished characterisation, picture by picture.

    python -m experiments.risk --workdir=runs/first --recognisable_ssim=0.4

Prints, for the strongest attacker of every cell, mean and 95th percentile of PSNR with 95 %
bootstrap intervals, the gain over answering the mean image, the share of pictures that are rebuilt
recognisably, and the perceptual distance. Writes the same, and more, to risk.csv, and classes to
risk_classes.csv, in the work directory.
"""

from absl import flags

from experiments import cli
from privynet_jax.results.risk_tables import (
    RECOGNISABLE_SSIM,
    RISK,
    RISK_CLASSES,
    risk_text,
    write_risk_tables,
)
from privynet_jax.results.work_directory import ResultStore

cli.key_flags("workdir")
_RECOGNISABLE_SSIM = flags.DEFINE_float(
    "recognisable_ssim", RECOGNISABLE_SSIM, "From which SSIM on; our own convention.", -1.0, 1.0
)


def main() -> None:
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    results = store.grid_results(config)
    rows = write_risk_tables(store, results, config["mode"], _RECOGNISABLE_SSIM.value)
    print(risk_text(rows))
    print(
        f"Intervals are over test images, taken as independent. {RISK} and {RISK_CLASSES} are in "
        f"{store.workdir}."
    )


if __name__ == "__main__":
    cli.run(main)

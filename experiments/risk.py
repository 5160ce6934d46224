"""Who is at risk: privacy loss of a finished characterisation, picture by picture.

    python -m experiments.risk --workdir=runs/first --recognisable_ssim=0.4

Prints, for the strongest attacker of every cell, PSNR and HaarPSI with 95 % bootstrap intervals,
the gain over answering the mean image, and the shares of pictures that are rebuilt recognisably and
that their reconstruction identifies. Writes more to risk.csv, and classes to risk_classes.csv, in
the work directory.
"""

from absl import flags

from experiments import cli
from privynet_jax import ResultStore
from privynet_jax.results import risk_tables

cli.key_flags("workdir")
_USUAL = risk_tables.RECOGNISABLE_SSIM
_RECOGNISABLE = flags.DEFINE_float(
    "recognisable_ssim", _USUAL, "From which SSIM on; our own convention.", -1.0, 1.0
)


def main() -> None:
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    results = store.grid_results(config)
    given = (config["mode"], _RECOGNISABLE.value)
    print(risk_tables.risk_text(risk_tables.write_risk_tables(store, results, *given)))
    tables = f"{risk_tables.RISK} and {risk_tables.RISK_CLASSES} are in {store.workdir}."
    print(f"Intervals are over sources: photographs, groups of copies, single images. {tables}")


if __name__ == "__main__":
    cli.run(main)

r"""Withdraws pictures that were released: the cloud is told which rows not to use any more.

    python -m experiments.revoke --package=package --images=folder:withdrawn \
        --release=release.tar,later.tar --out=revocation.json --trusted=planner.pub,clinic.pub

The file --out goes to the cloud, as `train_cloud --revoked=revocation.json`, and names no picture.
A release that holds such a row, and was not among those given here, is named there. Pictures are
known by their pixels, not by their names. Takes as long as extracting them.
"""

from experiments import cli
from privynet_jax.deployment.device.release_commands import revoke

cli.key_flags("package images release out sixteen_bit_max dicom_window key trusted unsigned")


def main() -> None:
    cli.needed(cli.RELEASE, "name the releases that hold the pictures")
    print(
        revoke(
            cli.needed_folder(cli.PACKAGE),
            cli.needed(cli.IMAGES, "give folder:PATH"),
            cli.paths(cli.RELEASE),
            cli.new_file(cli.OUT),
            reading=cli.reading(),
            trust=cli.trust(),
            key=cli.key(),
        )
    )


if __name__ == "__main__":
    cli.run(main)

r"""Releases pictures: what the local NN of a package makes of them, in an order nobody can undo.

    python -m experiments.extract --package=package --images=folder:photos --out=release \
        --trusted=planner.pub --key=clinic.key

All that leaves this device is the folder --out, as release.tar beside it: representations, class
numbers (unless --nolabelled is given), and what is needed to read them. The tar tells no user, no
time and not the folder's name. --images may also be a TFDS data set. With
--order_out=order.csv, which stays here, rows can be traced back to pictures.

--trusted names the public key of who signed the package (`experiments.keys`); --unsigned takes one
that nobody signed. --key signs the release. With --encrypt_to=cloud.pub the owner of that key alone
can open what is handed over, release.sealed, by `experiments.unseal`.

The same command again continues after a kill, and verifies what is there. Pictures that were
repaired or removed meanwhile make another release, which starts anew; --skip_unreadable goes on
with the one begun. On 2 CPU cores a thousand images of 32 x 32 pixels take about a second at
conv2_2.
"""

from absl import flags

from experiments import cli
from privynet_jax.deployment.device.release_commands import ExtractSettings, extract
from privynet_jax.deployment.release.release_inputs import SPLITS
from privynet_jax.deployment.trust.keys import read_public
from privynet_jax.platform.files import expanded
from privynet_jax.platform.rows.coding import DTYPES

cli.key_flags("package images out revoked data_dir skip_unreadable sixteen_bit_max dicom_window")
cli.key_flags("key trusted unsigned")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", DTYPES, "How representations are stored; uint8 is a quarter of float32."
)
_LABELLED = flags.DEFINE_boolean(
    "labelled", True, "Release class numbers too; a folder then has one subfolder per class."
)
_SPLIT = flags.DEFINE_enum("split", "all", SPLITS, "Of data sets with splits.")
_ORDER_OUT = flags.DEFINE_string(
    "order_out", None, "CSV for this device alone: which picture each row is."
)
_EARLIER = flags.DEFINE_list("earlier", [], "Releases; of what they hold nothing leaves again.")
_ENCRYPT_TO = flags.DEFINE_string(
    "encrypt_to", None, "Public key of who alone shall be able to open what is handed over."
)


def main() -> None:
    package, out = cli.needed_folder(cli.PACKAGE), cli.needed_folder(cli.OUT)
    images = cli.needed(cli.IMAGES, "give folder:PATH or a TFDS name")
    settings = ExtractSettings(
        dtype=_DTYPE.value,
        labelled=_LABELLED.value,
        split=_SPLIT.value,
        order_out=expanded(_ORDER_OUT.name, _ORDER_OUT.value) if _ORDER_OUT.value else None,
        earlier=cli.paths(_EARLIER),
        revoked=cli.paths(cli.REVOKED),
        data_dir=cli.data_folder(),
        trust=cli.trust(),
        key=cli.key(),
        encrypt_to=None if _ENCRYPT_TO.value is None else read_public(cli.needed_file(_ENCRYPT_TO)),
        **cli.decoding(),
    )
    print(extract(package, images, out, settings))


if __name__ == "__main__":
    cli.run(main, continues=True)

"""Makes keys: one that signs what you make and opens what is for you, and one that you give away.

    python -m experiments.keys --out=clinic
    python -m experiments.keys --show=cloud.pub

Writes clinic.key, which is yours alone, and clinic.pub. Whoever has clinic.pub can tell that a
package, a release, a classifier or a revocation is yours (--trusted=clinic.pub), and can encrypt a
release so that you alone can open it (--encrypt_to=clinic.pub). A key is worth no more than the way
that it came: both commands print the numbers of its two halves; compare them by telephone.
"""

from absl import flags

from experiments import cli
from privynet_jax.deployment.device.device_commands import keys
from privynet_jax.platform.files import expanded

cli.key_flags("out")
_SHOW = flags.DEFINE_string("show", None, "Public key that is to be shown.")


def main() -> None:
    out = expanded("out", cli.OUT.value) if cli.OUT.value else None
    print(keys(out, cli.needed_file(_SHOW) if _SHOW.value is not None else None))


if __name__ == "__main__":
    cli.run(main)

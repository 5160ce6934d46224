"""Makes keys: one that signs what you make and opens what is for you, and one that you give away.

    python -m experiments.keys --out=clinic

Writes clinic.key, which is yours alone, and clinic.pub. Whoever has clinic.pub can tell that a
package, a release, a classifier or a revocation is yours (--trusted=clinic.pub), and can encrypt a
release so that you alone can open it (--encrypt_to=clinic.pub). Compare the sixteen digits that are
printed with whom you give it to, by telephone: a key is worth no more than the way that it came.
"""

from experiments import cli
from privynet_jax.deployment.device.device_commands import keys
from privynet_jax.platform.files import expanded

cli.key_flags("out")


def main() -> None:
    print(keys(expanded("out", cli.needed(cli.OUT, "give a name, such as clinic"))))


if __name__ == "__main__":
    cli.run(main)

"""Refuses to go on with what was begun with other settings, and says which ones differ.

check_same_settings("runs/first was made", found, wanted, "or give a new folder as --workdir")

`store`, `cloud_training` and `kept_rows` ask it. No JAX here.
"""

from collections.abc import Mapping
from typing import Any

from privynet_jax.errors import UserError


def check_same_settings(
    what: str, found: Mapping[str, Any], wanted: Mapping[str, Any], otherwise: str
) -> None:
    """Compares settings that were read from a file with those that are wanted now.

    Args:
        what: was done with the settings found, and where: "runs/first was made".
        found: as JSON gives them back.
        wanted: as JSON would give them back.
        otherwise: what to do instead of giving the old settings again, beginning with "or".

    Raises:
        UserError: a setting differs, or only one of both has it; all such settings are named.
    """
    changed = [
        f"{name} was {found.get(name)!r} and is now {wanted.get(name)!r}"
        for name in sorted(set(found) | set(wanted))
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise UserError(
            f"{what} with other settings: {'; '.join(changed)}; give the old settings, {otherwise}"
        )

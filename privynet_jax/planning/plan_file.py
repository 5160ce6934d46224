"""The file of a plan: written for its owner alone, and read only as it was written.

It carries a checksum: a plan that was changed by hand makes promises that nobody measured, so it is
refused. (Somebody who computes the checksum anew is not kept out by it; even then the channels must
be those that the seed draws, in its order.) It holds the user's secrets, so nobody else may read
it. No JAX here.

    write_plan(Path("plan.json"), plan)
    read_plan(Path("plan.json")).topology
"""

import dataclasses
import json
from pathlib import Path

from privynet_jax.errors import UserError
from privynet_jax.planning.plan import Plan
from privynet_jax.platform.documents import checked, read_document, write_document

_VERSION = 2
_REMEDY = "give the plan.json that experiments.plan wrote, or plan again"


def write_plan(path: Path, plan: Plan) -> None:
    """Writes a plan whole, readable by the user alone.

    Raises:
        ValueError: the plan is one that `read_plan` would not take.
    """
    content = json.loads(json.dumps(dataclasses.asdict(plan), allow_nan=False))
    readable = checked(content, Plan, "Expected a plan that can be read again", "plan again")
    write_document(path, readable, _VERSION, private=True)


def read_plan(path: Path) -> Plan:
    """Returns the plan of a file.

    Raises:
        UserError: the file cannot be read, is no plan, is of another version, was changed, or
            makes no sense.
    """
    try:
        return read_document(path, Plan, _VERSION, _REMEDY, what="plan")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {_REMEDY}") from None

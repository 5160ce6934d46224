"""Several processes, usually one per machine, that do one grid together.

Each process takes a fixed share of the cells and writes to the shared work directory; they never
wait for one another while they work. Processes meet once, at the first start, through
`jax.distributed`, which knows a TPU pod by itself. They do so in a short-lived process of their
own, because JAX ends every connected process when one dies (see BUILD_NOTES.md).
`experiments.cli` makes the flags, `characterisation` deals out the cells.

    share = join("10.0.0.1:1234", num_processes=3, process_id=1, workdir=Path("runs/first"))
    own = share_of(cells, share)
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from privynet_jax.errors import UserError

# Seconds that a process waits for the others, which is JAX's own default.
MEETING_TIMEOUT = 300
# Seconds beyond that after which a meeting has hung: for starting Python and for parting.
_GRACE = 60


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of the work is one process's: the process's number, from 0, of so many."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(
                f"process_id is {self.index} and num_processes is {self.count}; allowed are "
                "process ids from 0 to num_processes - 1; give each process its own"
            )


def share_of(items: Sequence[Any], share: Share) -> Sequence[Any]:
    """Returns one process's items: a contiguous piece, all pieces being equal up to one item.

    Neighbouring cells are of one layer, so few processes compile the same layer. A piece depends on
    all items and on the share alone, never on what is done: a process that starts again has the
    same one.
    """
    start, stop = (len(items) * index // share.count for index in (share.index, share.index + 1))
    return items[start:stop]


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    workdir: Path | None = None,
    timeout: int = MEETING_TIMEOUT,
    waiting: Callable[[], None] = lambda: None,
) -> Share:
    """Returns this process's share, after all processes have met if this is their first start.

    Without arguments that is the whole work, or on a TPU pod the share of this worker. The first
    three arguments are those of `jax.distributed.initialize`; give all of them or none. `waiting`
    is called before this process waits for the others, for `timeout` seconds. The `workdir`
    remembers that they have met, so that one that starts again works on at once: the others no
    longer listen.

    Raises:
        UserError: arguments are missing or wrong, or the processes do not meet in time.
    """
    if jax.distributed.is_initialized():
        return Share(jax.process_index(), jax.process_count())
    launch = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if all(value is None for value in launch.values()):
        pod = _meet({}, timeout) if importlib.util.find_spec("libtpu") else None
        # Where no pod was recognised the TPU runtime may know of one nevertheless.
        return pod or Share(jax.process_index(), jax.process_count())
    share = _checked(launch)
    met = workdir and workdir / f".met-{share.count}"
    if share.count > 1 and not (met and met.exists()):
        waiting()
        # JAX would look for a cluster manager to learn the devices; none are needed for a meeting.
        agreed = _meet({**launch, "local_device_ids": [0]}, timeout)
        if agreed != share:
            raise UserError(
                f"num_processes is {share.count} here, and for process 0 it is {agreed.count}; "
                "start all processes with the same num_processes"
            )
        if met:
            met.parent.mkdir(parents=True, exist_ok=True)
            met.touch()
    return share


def _checked(launch: Mapping[str, Any]) -> Share:
    if missing := [name for name, value in launch.items() if value is None]:
        raise UserError(
            f"several processes need coordinator_address, num_processes and process_id, and "
            f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} not given; give all three, "
            "or none on one machine"
        )
    port = re.fullmatch(r"[^\s/]+:(\d{1,5})", launch["coordinator_address"])
    if not port or not 0 < int(port[1]) < 2**16:
        raise UserError(
            f"coordinator_address is {launch['coordinator_address']!r}; expected HOST:PORT, the "
            "address of process 0 with a free port, as in 10.0.0.1:1234"
        )
    return Share(launch["process_id"], launch["num_processes"])


def _meet(launch: Mapping[str, Any], timeout: int) -> Share | None:
    """Lets a process of its own meet the others; None where it finds that there are none.

    When a meeting fails JAX does not raise but aborts, which must not reach this process.
    """
    arguments = json.dumps({**launch, "initialization_timeout": timeout})
    listening, alive = os.pipe()  # reads as closed when this process ends, however it ends
    with subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import _scout; _scout()", arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=listening,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a stack trace, when it aborts
        text=True,
    ) as scout:
        try:
            os.close(listening)
            printed, _ = scout.communicate(timeout=timeout + _GRACE)
        except subprocess.TimeoutExpired:
            printed = ""
        finally:
            scout.kill()
            os.close(alive)
    # Nothing is printed by one that hung or aborted, and a text by one to whom JAX gave a reason.
    answer = json.loads(printed.strip() or '""')
    if isinstance(answer, str):
        where = launch.get("coordinator_address", "the coordinator of this TPU pod")
        raise UserError(
            f"the processes did not meet at {where} (timeout {timeout} s){answer}; start all of "
            "them with the same coordinator_address, which must reach process 0 at a free port, "
            "and the same num_processes, each with its own process_id"
        )
    return answer and Share(*answer)


def _scout() -> None:
    """Meets the other processes; prints [index, count], null for no cluster, or what went wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    launch = json.loads(sys.argv[1])
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the process that works
    try:
        jax.distributed.initialize(**launch)
        answer: list[int] | str | None = [jax.process_index(), jax.process_count()]
    except Exception as error:
        # JAX says ValueError where nothing tells of a cluster, requests OSError where nobody
        # answers questions about one.
        alone = "coordinator_address" not in launch and isinstance(error, ValueError | OSError)
        answer = None if alone else f" ({' '.join(str(error).split())})"
    # All have met now; should one of them die while they part, that changes nothing.
    print(json.dumps(answer), flush=True)
    jax.distributed.shutdown()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)

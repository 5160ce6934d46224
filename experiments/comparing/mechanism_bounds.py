"""What no attacker should beat, of mechanisms with noise, beside what the strongest one reached.

`compare_mechanisms` has a bound for who gets one release of a picture, and one for who gets the
mean of several; each is compared with the strongest of its own attackers, in PSNR of the error's
mean over pictures. The PSNR that other tables show is the mean over pictures, which is no less.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.comparing.ground import Ground
from experiments.comparing.mechanism_trials import of_mean_of
from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.mechanisms.bounds import as_db
from privynet_jax.mechanisms.information import ErrorBounds, Prior, error_bounds
from privynet_jax.mechanisms.mechanism import Mechanism
from privynet_jax.results.cells import Cell, Measurement, release_key
from privynet_jax.results.risk_tables import ranged
from privynet_jax.results.statistics import bootstrap, mean_of
from privynet_jax.results.text_tables import aligned

# Bounds of any attacker -> what they assume.
ASSUMED = {
    "van_trees": "that pictures are Gaussian",
    "rate": "that pictures are Gaussian",
    "entropy": "that a lossless code's length is the pictures' entropy",
}
_KINDS = ("unbiased", *ASSUMED)
# Of the probes' directions: apart from the release's own streams.
_PROBES = 2**31 - 3
NOTE = (
    "Bounds are the most PSNR that any attacker reaches, by what noise leaves of the Fisher "
    "information (van Trees) and of the information (rate, entropy), if pictures are as assumed: "
    f"van Trees and rate, {ASSUMED['rate']}; entropy, {ASSUMED['entropy']}. Neither is the safe "
    "side: who knows more of pictures may come above. unbiased assumes nothing of pictures, and "
    "binds attackers alone whose mean guess is the picture, as no trained one's is. All are of the "
    "error's mean over pictures, as is the attack beside them."
)


def bounds_of(
    ground: Ground,
    cells: Sequence[Cell],
    mechanism: Mechanism,
    prior: Prior,
    seed: int,
    repeats: int,
) -> list[dict[int, ErrorBounds]]:
    """Returns bounds of each cell, by releases of a picture: 1, and `repeats`."""
    found = []
    for cell in cells:
        scene, key = ground.scene(cell.topology), release_key(cell, seed)
        local = scene.knowledge(EVERYTHING).local
        images = ground.parts.auxiliary.images
        own = jax.random.fold_in(key, _PROBES)
        counts = sorted({1, repeats})
        found.append(error_bounds(mechanism, local, images, prior, own, counts))
    return found


def compared(
    measured: Sequence[Measurement],
    bounds: Sequence[Mapping[int, ErrorBounds]],
    clusters: np.ndarray,
) -> list[dict[str, Any]]:
    """Returns for each number of releases the bounds and their strongest attack, means over draws.

    The interval is over clusters, int [n], of the attacked images: their sources.
    """
    several = max(bounds[0])
    found = []
    for releases in bounds[0]:
        errors_of = [_errors(one, releases, several) for one in measured]
        if not errors_of[0]:
            continue  # no attacker averages
        strongest = [min(own.items(), key=lambda each: each[1].mean()) for own in errors_of]
        names, errors = zip(*strongest, strict=True)
        told = bootstrap(np.mean(errors, axis=0), mean_of, clusters)
        means = {k: np.mean([getattr(of[releases], k) for of in bounds]) for k in _KINDS}
        found.append(
            {
                "releases": releases,
                **{f"{name}_bound_db": as_db(float(mean)) for name, mean in means.items()},
                "nats": float(np.mean([of[releases].nats for of in bounds])),
                "attack_db": as_db(told.value),
                "attack_db_low": as_db(told.high),
                "attack_db_high": as_db(told.low),
                "attacker": "/".join(sorted(set(names))),
            }
        )
    return found


def _errors(one: Measurement, releases: int, several: int) -> dict[str, np.ndarray]:
    """Each image's error, float64 [n], by attackers of so many releases, of 1 and several."""
    return {
        name: 10 ** (-np.float64(attack["test"]["psnr_db"]) / 10)
        for name, attack in one.attacks.items()
        if several == 1 or name.endswith(of_mean_of(several)) == (releases > 1)
    }


def columns(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns columns of mechanisms.csv: of one release, then of several; empty without noise."""
    names = [*(f"{kind}_bound_db" for kind in _KINDS), "nats", "attack_db", "attacker"]
    rows = {"single": found[0] if found else {}, "averaged": found[1] if len(found) > 1 else {}}
    return {f"{w}_{n}": row.get(n, "") for w, row in rows.items() for n in names}


def as_text(titled: Mapping[str, tuple[float, Sequence[Mapping[str, Any]]]]) -> str:
    """Returns a table of rows with bounds, by their titles with epsilon, and what was beaten."""
    lines = [
        {
            "row": title,
            "releases": own["releases"],
            "epsilon of one": f"{epsilon:.3g}",
            **{kind.replace("_", " "): f"{own[f'{kind}_bound_db']:.1f}" for kind in _KINDS},
            "strongest (95 %)": ranged(own, "attack_db"),
            "by": own["attacker"],
        }
        for title, (epsilon, found) in titled.items()
        for own in found
    ]
    told = [_told(title, own) for title, (_, found) in titled.items() for own in found]
    beaten = [line for each in told for line in each]
    return "\n".join([aligned(lines), *beaten, NOTE] if lines else [])


def _told(title: str, own: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each bound that an attack beat for certain."""
    for kind, assumed in ASSUMED.items():
        beyond = own["attack_db_low"] - own[f"{kind}_bound_db"]
        if beyond > 0:
            yield (
                f"BEATEN: {title}, {_releases(own)}: {own['attacker']} is above the bound "
                f"{kind.replace('_', ' ')} by {beyond:.2f} dB, at the lower end of its interval. "
                f"One of both has a bug, or it is wrong {assumed}."
            )


def _releases(own: Mapping[str, Any]) -> str:
    return f"{own['releases']} release{'' if own['releases'] == 1 else 's'}"

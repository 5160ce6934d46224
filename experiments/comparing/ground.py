"""What comparisons share: data with their features, and rows that are measured once."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from privynet_jax import Parts, PretrainedWeights, Protocol, Topology, UserError
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.weights.sources import load_weights
from privynet_jax.characterisation.measure import measure
from privynet_jax.characterisation.reopening import Reopened, reopen
from privynet_jax.errors import DivergedError, everything_first
from privynet_jax.images.folders import is_private
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cells import Cell, Measurement, by_layer

# Rises when rows have other columns: those of before are refused.
_FORMAT = 3
# Flags of every comparison.
SHARED = (
    "out attackers seed weights max_images cache_dir data_dir skip_unreadable sixteen_bit_max fit "
    "dicom_window"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """A data set with layers' features by their numbers, on which topologies are attacked."""

    parts: Parts
    weights: PretrainedWeights
    features: Mapping[int, LayerFeatures]

    @property
    def data(self) -> dict[str, str]:
        """Of what kept rows are: a data set of the same name may have other pictures one day."""
        return {"data": self.parts.fingerprint}

    def scene(self, topology: Topology, width: int | None = None) -> Scenario:
        """Returns what an attacker of a topology has, padded to a width."""
        layer = self.features[topology.num_layers]
        return Scenario(topology, self.parts, layer, self.weights, width)

    def measured(
        self, cells: Sequence[Cell], protocol: Protocol, seed: int
    ) -> Iterator[tuple[Cell, Measurement]]:
        """Yields each cell with what is measured, by layer, all padded to the most channels."""
        width = max(cell.topology.depth for cell in cells)
        for _, mine in by_layer(cells):
            scenes = [self.scene(cell.topology, width) for cell in mine]
            yield from zip(mine, measure(mine, scenes, protocol, seed), strict=True)


def load_ground(dataset: str, union: Mapping[int, Sequence[int]], **settings: Any) -> Ground:
    """Returns a data set with the channels of `union`, as flags say; see `cli.load_data`."""
    cache_dir = cli.cache_folder()
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=cache_dir)
    parts = cli.load_data(dataset, **settings)
    return Ground(parts, weights, load_features(weights, parts, union, cache_dir))


def reopened() -> Reopened:
    """Returns the finished characterisation that --workdir names, as flags say."""
    return reopen(
        cli.needed_folder(cli.WORKDIR),
        weights=cli.WEIGHTS.value or "embedded",
        cache_dir=cli.cache_folder(),
        data_dir=cli.data_folder(),
        **cli.decoding(),
    )


def deciding(*names: str) -> dict[str, Any]:
    """Returns the flags of these names, and those that decide all comparisons' numbers."""
    names += ("seed", "weights", "max_images")
    found = {name: flags.FLAGS[name].value for name in names}
    told = cli.reading().told()
    return found | ({"reading": told} if told else {})


def kept_rows(out: Path, settings: Mapping[str, Any], tables: str, *datasets: str) -> KeptRows:
    """Opens the rows of a comparison; its tables are called so, and come with rows only.

    A folder that is made for somebody's own pictures is for the user alone.
    """
    kept = KeptRows(out, {**settings, "format": _FORMAT})
    there = [name for name in (f"{tables}.csv", f"{tables}.png") if (out / name).exists()]
    if there and not (out / "rows").exists():
        raise UserError(f"{out} has a {there[0]} of something else; give another folder as --out")
    if any(map(is_private, datasets)) and not out.exists():
        out.mkdir(0o700, parents=True)
    return kept


def one_by_one(
    measure: Callable[[Any], dict[str, Any]], missing: Iterable[Any]
) -> Iterator[dict[str, Any] | DivergedError]:
    """Yields each one's row, or how training diverged, as `filled` asks for."""
    for one in missing:
        try:
            yield measure(one)
        except DivergedError as error:
            yield error


def filled(
    kept: KeptRows, titled: Mapping[str, Any], measure: Callable[[list[Any]], Iterable[Any]]
) -> list[dict[str, Any]]:
    """Returns a row per title; measures together those that are not kept, and keeps them.

    `measure` returns a row each, or how training diverged, which is raised after others are kept.
    """
    rows = {title: kept.read(title) for title in titled}
    missing = [title for title, row in rows.items() if row is None]
    if missing:
        measured = measure([titled[title] for title in missing])
        with everything_first() as postponed:
            for title, row in zip(missing, measured, strict=True):
                with postponed():
                    if isinstance(row, DivergedError):
                        raise row
                    rows[title] = row
                    kept.write(title, row)
    return list(rows.values())

"""All inference attacks on one topology, as rows of one table.

suite = Suite(parts, settings, data_dir=None, key=jax.random.key(0))
rebuilt = Rebuilt(images, "strong", PAIRS)
rows = suite.attribute(scene, rebuilt, queries) + suite.membership(scene)
rows += suite.reidentification(scene, rebuilt, queries)
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from privynet_jax.attacks.base import EVERYTHING, NETWORK, PAIRS
from privynet_jax.attacks.inference import attributes, membership
from privynet_jax.attacks.inference.attributes import PARTS, Answering
from privynet_jax.attacks.inference.classifiers import Labelled
from privynet_jax.attacks.inference.membership import FALSE_POSITIVES
from privynet_jax.attacks.inference.reidentification import (
    grids,
    pixels,
    pooled,
    reidentify,
    same_source,
    similarities,
)
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.features.layer_features import image_features
from privynet_jax.images.parts import Parts
from privynet_jax.results.statistics import Interval, bootstrap, mean_of, median_of
from privynet_jax.training.courses.release_training import ReleaseTraining
from privynet_jax.training.models.networks import CloudNN, network_for
from privynet_jax.training.tasks import Schedule

ATTRIBUTE, REIDENTIFICATION, MEMBERSHIP = ATTACKS = ("attribute", "reidentification", "membership")
# What membership needs: the cloud NN's answers, and candidates' representations and labels.
LOGITS = "logits of the cloud NN"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the attacks are run with.

    Attributes:
        cloud: schedule of every classifier of attributes.
        width: channels of these, and of the cloud NN and its shadows.
        attributes: as `attributes.attribute_values` takes them.
        candidates: numbers of pictures among which a query is to be found.
        shadows: networks that membership trains online, and as many offline.
        training: of the cloud NN whose members are told, and of its shadows.
    """

    cloud: Schedule
    width: int = 64
    attributes: tuple[str, ...] = ("class", "brightness", "colour")
    candidates: tuple[int, ...] = (100,)
    shadows: int = 8
    training: ReleaseTraining = ReleaseTraining()  # noqa: RUF009 - frozen


class Rebuilt(NamedTuple):
    """What an attacker, of some `KNOWLEDGE`, made of queries: uint8 [Q, H, W, 3]."""

    images: np.ndarray
    attacker: str
    knowledge: str


class Suite:
    """The attacks on topologies of one data set; what they share is done once."""

    def __init__(
        self, parts: Parts, settings: Settings, data_dir: Path | str | None, key: jax.Array
    ) -> None:
        """Prepares what does not depend on the topology; see `attribute_values` for errors.

        The key is of all that is random; every topology and attack meets the same.
        """
        self._parts, self._settings = parts, settings
        self._keys = dict(zip(ATTACKS, jax.random.split(key, len(ATTACKS)), strict=True))
        self._values = {
            name: attributes.attribute_values(name, parts, data_dir) for name in settings.attributes
        }
        self._images = image_features(parts).parts
        self._of_images: dict[str, dict[str, tuple[Answering, np.ndarray]]] = {}

    def attribute(self, scene: Scenario, rebuilt: Rebuilt, queries: np.ndarray) -> list[Row]:
        """Accuracy per attribute, beside the most frequent value and the images themselves.

        Told from representations by classifiers that learnt from them; and from reconstructions by
        those that learnt from images, as a person would recognise what is on a picture. Queries
        int [Q] are the test images that were rebuilt.
        """
        own, released = map(scene.stored, PARTS)
        changed = dataclasses.replace(self._parts.test.take(queries), images=rebuilt.images)
        pictures = image_features(dataclasses.replace(self._parts, test=changed)).parts["test"]
        everything, rows = np.arange(len(self._parts.test)), []
        for name, values in self._values.items():
            by_images = self._by_images(name)
            by_released = self._classifiers(own, values)
            for classifier, (answering, of_images) in by_images.items():
                title = f"{name}, by a {classifier}"
                asked = by_released[classifier], released, everything
                rows += self._answers((title, PAIRS), values, of_images, *asked)
                title += f" from a reconstruction by {rebuilt.attacker}"
                asked = answering, pictures, queries
                rows += self._answers((title, rebuilt.knowledge), values, of_images, *asked)
        return rows

    def reidentification(self, scene: Scenario, rebuilt: Rebuilt, queries: np.ndarray) -> list[Row]:
        """Top-1 rate, ranks, same source: by a reconstruction, with the local NN, or VGG16 alone.

        The scene's features are of all channels of the layer; queries int [Q] are the test images
        that were rebuilt.
        """
        # Few positions are left of each map: all channels of all images fit into memory then.
        everything = pooled(scene.features.parts["test"])
        own = everything[..., scene.features.positions(scene.topology.channels)]
        released = own[queries]
        title, images = f"reconstruction by {rebuilt.attacker}", self._parts.test.images
        compared = [
            (title, rebuilt.knowledge, pixels, rebuilt.images, images),
            ("representation, local NN known", EVERYTHING, grids, released, own),
            ("representation, channels unknown", NETWORK, similarities, released, everything),
        ]
        rows, key, sources = [], self._keys[REIDENTIFICATION], self._parts.test.clusters(queries)
        by_images = self._same_source(pixels(images)[queries], pixels(images), queries)
        for variant, knowledge, described, asked, gallery in compared:
            descriptors = described(asked), described(gallery)
            for candidates in self._settings.candidates:
                title = (REIDENTIFICATION, f"{variant}, among {candidates}", knowledge)
                found = reidentify(*descriptors, queries, candidates, key)
                by_chance, middle = 1 / candidates, (candidates + 1) / 2
                numbers = {
                    "top-1 rate": (bootstrap(found.top1, mean_of, sources), by_chance),
                    "mean rank": (bootstrap(found.ranks, mean_of, sources), middle),
                    "median rank": (bootstrap(found.ranks, median_of, sources), middle),
                }
                rows += _rows(title, numbers)
            title = (REIDENTIFICATION, f"{variant}, among all others", knowledge)
            if by_images:
                rate, chance = self._same_source(*descriptors, queries)
                rows += _rows(title, {"same source": (rate, chance)}, by_images[0].value)
        return rows

    def _same_source(
        self, asked: np.ndarray, gallery: np.ndarray, queries: np.ndarray
    ) -> tuple[Interval, float] | None:
        """How often the most alike other picture is of the query's source, and by chance.

        None where each query is the only picture of its source.
        """
        sources = self._parts.test.clusters()
        found = same_source(asked, gallery, queries, sources)
        if not len(found.rows):
            return None
        rate = bootstrap(found.right, mean_of, sources[queries][found.rows])
        return rate, float(found.chance.mean())

    def membership(self, scene: Scenario) -> list[Row]:
        """Candidates are target and validation images: test images may be of another kind."""
        parts, settings, key = self._parts, self._settings, self._keys[MEMBERSHIP]
        of = {name: Labelled(scene.stored(name), part.labels) for name, part in parts.items()}
        candidates = membership.joined(of["target"], of["validation"])
        groups = [part.groups for part in (parts.target, parts.validation)]
        alone = any(each is None for each in groups)
        groups = np.arange(len(candidates.labels)) if alone else np.concatenate(groups)
        shape = candidates.representations.shape[1:]
        network = network_for(shape, parts.num_classes, settings.width)
        data = candidates, groups, of["auxiliary"], network
        found = membership.attack(*data, settings.training, key, shadows=settings.shadows)
        title, rows = f"TPR at {100 * FALSE_POSITIVES:g} % FPR", []
        for name, result in found.items():
            numbers = {title: (result.tpr, FALSE_POSITIVES), "AUC": (result.auc, 0.5)}
            rows += _rows((MEMBERSHIP, name, LOGITS), numbers)
        return rows

    def networks(self, attack: str) -> int:
        """Returns how many networks an attack trains per topology, the shared ones left out."""
        settings = self._settings
        return {
            ATTRIBUTE: attributes.REPEATS * len(settings.attributes),
            REIDENTIFICATION: 0,
            MEMBERSHIP: membership.networks(settings.shadows),
        }[attack]

    def _by_images(self, name: str) -> dict[str, tuple[Answering, np.ndarray]]:
        """The classifiers of an attribute that learnt from the attacker's images themselves.

        With the share of each kind that is right about each test image, float64 [N].
        """
        if name not in self._of_images:
            values, own = self._values[name], self._images["auxiliary"][:]
            test = Labelled(self._images["test"][:], values["test"])
            self._of_images[name] = {
                classifier: (answering, attributes.share_right(answering, test))
                for classifier, answering in self._classifiers(own, values).items()
            }
        return self._of_images[name]

    def _classifiers(
        self, representations: Any, values: Mapping[str, np.ndarray]
    ) -> dict[str, Answering]:
        """Several kinds: one alone would pass its own weakness off as privacy."""
        own, count = Labelled(representations, values["auxiliary"]), attributes.count_of(values)
        network = CloudNN(count, self._parts.image_size, self._settings.width)
        schedule, key = self._settings.cloud, self._keys[ATTRIBUTE]
        return {
            "network": attributes.learn(own, network, schedule, key),
            "linear probe": attributes.learn_probe(own, count),
        }

    def _answers(
        self,
        title: tuple[str, str],
        values: Mapping[str, np.ndarray],
        of_images: np.ndarray,
        answering: Answering,
        asked: Any,
        rows: np.ndarray,
    ) -> list[Row]:
        """The row of classifiers that are asked about these test images, beside the references."""
        truth, (variant, knowledge) = values["test"][rows], title
        right = attributes.share_right(answering, Labelled(asked, truth))
        reference = float(of_images[rows].mean())
        chance = float(attributes.majority_right(values["auxiliary"], truth).mean())
        rate = bootstrap(right, mean_of, self._parts.test.clusters(rows))
        title = (ATTRIBUTE, variant, knowledge)
        return _rows(title, {"accuracy": (rate, chance)}, reference)


def _rows(
    title: tuple[str, str, str],
    numbers: Mapping[str, tuple[Interval, float]],
    reference: float | str = "",
) -> list[Row]:
    """A row per number; the reference is what the same attack does to the images themselves."""
    named = dict(zip(("attack", "variant", "knowledge"), title, strict=True))
    return [
        named
        | {"number": number, **dataclasses.asdict(rate), "chance": chance, "reference": reference}
        for number, (rate, chance) in numbers.items()
    ]

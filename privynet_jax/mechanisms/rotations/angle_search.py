"""The attack on rotations: which of many turns leaves features that look like a picture's.

What tells right turns from wrong ones is a network that is trained on the attacker's own pairs,
turned back. Who has the local NN knows their features, and so their turns; who has pairs alone
finds both together: the features that a linear map expects of a picture, and the turn that comes
nearest to them, again and again. All parts are looked at, because the others are pictures'
features, too: unless features are Gaussian, mixtures of them look different (independent
components). Queries draw their angles anew, so that nobody has those of a release.

    undone = AngleSearch(mechanism, EVERYTHING).learnt(pairs, known, key)
    undone.undo(released)  # turned back as well as can be told, float32 [N, h, w, P * D]
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import EVERYTHING, Knowledge, Pairs
from privynet_jax.attacks.inference.reidentification import pooled
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.undoing import Undone
from privynet_jax.mechanisms.rotations import turns
from privynet_jax.mechanisms.rotations.critic import Critic
from privynet_jax.training.tasks import Task
from privynet_jax.training.trainer import Course, Member, train

# Wrong turns beside the right one, in every step of the critic's.
_WRONG = 3
_BATCH, _RATE, _AT_ONCE = 32, 2e-3, 16
# What a linear map is given of a picture, and how often it is fitted again.
_SIDE, _ROUNDS, _RIDGE = 8, 20, 1e-2
# A turn counts as found where the hidden part is at least so much of what it leaves: 15 degrees.
_NEAR = np.cos(np.deg2rad(15))


class Turning(Protocol):
    """What is known of a mechanism that turns (`rotation.Rotation`)."""

    parts: int
    tries: int

    def turn(self, key: jax.Array) -> jax.Array:
        """Returns a random turn, float32 [P, P]."""
        ...

    def turns(self, count: int) -> jax.Array:
        """Returns turns that are spread evenly, float32 [count, P, P]."""
        ...


@dataclasses.dataclass(frozen=True)
class AngleSearch:
    """Turns back by the best of the turns that are tried.

    Attributes:
        mechanism: how it turns, as everybody knows.
        knowledge: "pairs", or "everything" of who has the local NN.
        steps: of the critic, of 32 rows.
    """

    mechanism: Turning
    knowledge: str
    name: str = "angle search"
    steps: int = 300

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Trains the critic on own pairs, and turns them back by it as well."""
        released = np.float32(pairs.representations[:])
        tried = np.asarray(self.mechanism.turns(self.mechanism.tries))
        expected = self._features(pairs, known, released, tried)
        nearest = nearest_turns(released, expected, tried)
        rows, held_out = pairs.hold_out()
        right = turned_back_by(released, tried[nearest])
        search = Search(self.mechanism, self._critic(right, rows, key), tried)
        found = search.best(released)
        near = np.einsum("np,np->n", tried[found][..., 0], tried[nearest][..., 0]) > _NEAR
        report = {"turns_found_percent": float(100 * near[held_out].mean())}
        left = turned_back_by(released, tried[found])
        return Undone(search.undone, Pairs(left, pairs.images, pairs.copies), report)

    def _features(
        self, pairs: Pairs, known: Knowledge, released: np.ndarray, tried: np.ndarray
    ) -> np.ndarray:
        """Hidden parts of own pictures, float32 [N, h, w, D]."""
        if self.knowledge != EVERYTHING:
            return expected_features(released, pairs.images, tried)
        if known.local is None:
            raise UserError(f"the attack {self.name} needs the local NN; give knowledge of it")
        local, depth = jax.jit(known.local), released.shape[-1] // self.mechanism.parts
        first = np.concatenate(
            [
                np.asarray(local(as_float(images)))[..., :depth]
                for images in np.array_split(
                    pairs.images[:: pairs.copies], -(-len(pairs.images) // pairs.copies // _BATCH)
                )
            ]
        )
        return np.repeat(first, pairs.copies, axis=0)

    def _critic(self, right: np.ndarray, rows: np.ndarray, key: jax.Array) -> Any:
        """Parameters of who tells rows that were turned back from those turned once more."""
        member = Member(key, right, np.zeros(len(right), np.int32), rows, _RATE)
        [trained] = train(critic_task(self.mechanism), [member], Course(self.steps, _BATCH))
        return trained.params


@functools.cache
def critic_task(mechanism: Turning) -> Task:
    """Returns the critic's task: which of several turns of each row is none.

    The other parts of a row are exchanged with another row's, so that there are as many examples as
    pairs of rows.
    """
    critic = Critic()

    def draw(key: jax.Array, _: Any, x: jax.Array, labels: jax.Array) -> Any:
        own, other = (jax.random.split(one, (len(x), _WRONG)) for one in jax.random.split(key))
        each = jax.vmap(jax.vmap(mechanism.turn))
        wrong = jnp.swapaxes(each(own), -1, -2) @ each(other)
        first, *others = jnp.moveaxis(turns.unpacked(x, mechanism.parts), 1, 0)
        mixed = [first, *(jnp.roll(part, i + 1, axis=0) for i, part in enumerate(others))]
        right = jnp.stack(mixed, axis=1)
        both = jnp.concatenate([right[:, None], turns.turned(wrong, right[:, None])], axis=1)
        return turns.packed(both), labels

    def predict(params: Any, _: Any, x: jax.Array) -> jax.Array:
        return critic.apply(params, x.reshape(-1, *x.shape[2:])).reshape(x.shape[:2])

    def losses(scores: jax.Array, labels: jax.Array) -> jax.Array:
        return -jax.nn.log_softmax(scores)[:, 0]

    return Task(
        name="critic",
        stream=2,
        init=lambda key, x: critic.init(key, x[:, 0]),
        predict=predict,
        loss=lambda scores, labels: losses(scores, labels).mean(),
        measure=lambda scores, labels: {"loss": losses(scores, labels)},
        score=lambda means: (-means["loss"],),
        error=lambda means: means["loss"],
        draw=draw,
    )


class Search:
    """Finds turns by what a critic says of each one tried."""

    def __init__(self, mechanism: Turning, params: Any, tried: np.ndarray) -> None:
        self._tried, critic, parts = tried, Critic(), mechanism.parts

        @jax.jit
        def scores(params: Any, released: jax.Array) -> jax.Array:
            back = jnp.swapaxes(jnp.asarray(tried), -1, -2)
            every = turns.packed(turns.turned(back, turns.unpacked(released, parts)[:, None]))
            said = critic.apply(params, every.reshape(-1, *released.shape[1:]))
            return said.reshape(len(released), -1)

        self._scores = functools.partial(scores, params)

    def best(self, released: np.ndarray) -> np.ndarray:
        """Returns which turn looks best of each, int [N], of float32 [N, h, w, P * D]."""
        found = np.zeros(len(released), int)
        for start in range(0, len(released), _AT_ONCE):
            rows = np.arange(start, start + _AT_ONCE).clip(max=len(released) - 1)
            best = np.argmax(self._scores(released[rows]), axis=1)
            found[rows] = best
        return found

    def undone(self, released: np.ndarray) -> np.ndarray:
        """Returns all parts, turned back by what looks best."""
        released = np.float32(released)
        return turned_back_by(released, self._tried[self.best(released)])


def turned_back_by(released: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Returns float32 [N, h, w, P * D] turned back by turns [N, P, P]: all parts."""
    parts = turn.shape[-1]
    z = released.reshape(*released.shape[:-1], parts, -1)
    back = np.einsum("npq,nhwpd->nhwqd", turn, z, optimize=True)
    return np.float32(back).reshape(released.shape)


def nearest_turns(released: np.ndarray, expected: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Returns which turn back comes nearest to what is expected of the hidden part, int [N].

    Released float32 [N, h, w, P * D], expected [N, h, w, D], turns tried [K, P, P].
    """
    parts = tried.shape[-1]
    z = released.reshape(*released.shape[:-1], parts, -1)
    gram = np.einsum("nhwpd,nhwqd->npq", z, z, optimize=True)
    shared = np.einsum("nhwpd,nhwd->np", z, expected, optimize=True)
    back = tried[..., 0]
    own = np.einsum("kp,npq,kq->nk", back, gram, back, optimize=True)
    return np.argmax(2 * shared @ back.T - own, axis=1)


def expected_features(released: np.ndarray, images: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Returns what a linear map of pictures expects of their hidden parts, float32 [N, h, w, D].

    Nobody says which turns are right; a map and the turns that come nearest to it are found in
    turn. It starts from the line along which releases vary most, whichever way they are turned.
    """
    parts, count = tried.shape[-1], len(released)
    flat = released.reshape(*released.shape[:-1], parts, -1)
    flat = np.moveaxis(flat, 3, 1).reshape(count, parts, -1)
    shown = _small(images)
    gram = shown.T @ shown
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    solved = np.linalg.solve(gram, shown.T)
    back = tried[..., 0]
    chosen = np.argmax(_along_the_main_line(flat) @ back.T, axis=1)
    for _ in range(_ROUNDS):
        hidden = np.einsum("np,npf->nf", back[chosen], flat)
        expected = np.float32(shown @ (solved @ hidden))
        shaped = expected.reshape(*released.shape[:-1], -1)
        before, chosen = chosen, nearest_turns(released, shaped, tried)
        if np.array_equal(before, chosen):
            break
    return shaped


def _along_the_main_line(flat: np.ndarray) -> np.ndarray:
    """Each part's coordinate, float32 [N, P], on the first principal axis of all parts."""
    rows = flat.reshape(-1, flat.shape[-1])
    line = np.random.default_rng(0).standard_normal(rows.shape[1]).astype(np.float32)
    for _ in range(_ROUNDS):
        line = rows.T @ (rows @ line)
        line /= np.linalg.norm(line)
    return flat @ line


def _small(images: np.ndarray) -> np.ndarray:
    """Means over blocks of uint8 [N, S, S, 3] and a constant, float32 [N, 8 * 8 * 3 + 1]."""
    x = pooled(as_float(images), _SIDE).reshape(len(images), -1)
    return np.concatenate([x - x.mean(axis=0), np.ones((len(x), 1), np.float32)], axis=1)

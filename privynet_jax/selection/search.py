"""Direct optimisation of the released channels: the best subset of a layer.

Beyond the paper. Its pruning looks at channels one by one; here whole subsets are scored, on
accuracy and on privacy loss at once (`subset_scores`). What comes out is no secret: whoever repeats
the search finds it as well.

    scorer = SubsetScorer(layer, parts, most_channels=16)
    search(scorer, channels=128, depth=16, stream=np.random.default_rng(0))  # (3, 17, 90, ...)

The search is a cross-entropy method (Rubinstein, doi:10.1023/A:1010091220143) whose distribution
over subsets has one utility per channel, refitted by ridge regression to all subsets scored so far.
NumPy only.
"""

from collections.abc import Callable, Sequence

import numpy as np

from privynet_jax.selection.subset_scores import Estimates

# Of privacy loss against accuracy, each in units of its spread over random subsets.
PRIVACY_WEIGHT = 0.7
# Subsets scored at first, at random; then in each round.
FIRST, ROUNDS, PER_ROUND = 200, 9, 90
# Of utilities, in units of their spread, against the noise of a round's draws: from nearly random
# subsets to nearly the best ones.
_SHARPNESS = 0.5
# Of earlier rounds' subsets in the regression, per round.
_FADING = 0.7
_RIDGE = 3.0


def search(
    score: Callable[[Sequence[np.ndarray]], Estimates],
    channels: int,
    depth: int,
    stream: np.random.Generator,
    *,
    privacy_weight: float = PRIVACY_WEIGHT,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[int, ...]:
    """Returns the best subset of a depth, ascending: the channels that are worth most in subsets.

    What is maximised is log-likelihood minus weighted PSNR, mean over attackers, each in units of
    its spread over random subsets; a weight of 0 looks at accuracy alone. Everything random comes
    from the stream. `progress` is told the share done since the last call.
    """
    chosen = [_drawn(stream, np.zeros(channels), depth) for _ in range(FIRST)]
    estimates = score(chosen)
    units = [(np.mean(values, 0), np.maximum(np.std(values, 0), 1e-9)) for values in estimates]
    share = 1 / (ROUNDS + FIRST / PER_ROUND)
    progress(share * FIRST / PER_ROUND)

    def objective(each: Estimates) -> np.ndarray:
        accuracy, privacy = (
            (values - mean) / spread for values, (mean, spread) in zip(each, units, strict=True)
        )
        return accuracy - privacy_weight * privacy.mean(axis=1)

    members, values = _membership(chosen, channels), objective(estimates)
    weights = np.ones(len(values))
    for number in range(1, ROUNDS + 1):
        utilities = _ridge_regression(members, values, weights)
        scale = number * _SHARPNESS / max(float(np.std(utilities)), 1e-12)
        chosen = [_drawn(stream, scale * utilities, depth) for _ in range(PER_ROUND)]
        members = np.vstack([members, _membership(chosen, channels)])
        values = np.append(values, objective(score(chosen)))
        weights = np.append(_FADING * weights, np.ones(PER_ROUND))
        progress(share)
    utilities = _ridge_regression(members, values, weights)
    return tuple(sorted(map(int, np.argsort(-utilities, kind="stable")[:depth])))


def _drawn(stream: np.random.Generator, scores: np.ndarray, depth: int) -> np.ndarray:
    """A subset int [depth], ascending; channels of higher scores are more likely in it.

    Gumbel noise and the largest sums draw without replacement, with odds exp(score).
    """
    noisy = scores + stream.gumbel(size=len(scores))
    return np.sort(np.argsort(-noisy, kind="stable")[:depth])


def _membership(subsets: Sequence[np.ndarray], channels: int) -> np.ndarray:
    members = np.zeros((len(subsets), channels))
    np.put_along_axis(members, np.stack(subsets), 1.0, axis=1)
    return members


def _ridge_regression(members: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 [channels], coefficients of weighted least squares with an intercept."""
    total = weights.sum()
    centred = members - weights @ members / total
    weighted = weights[:, None] * centred
    gram = centred.T @ weighted + _RIDGE * np.eye(members.shape[1])
    return np.linalg.solve(gram, weighted.T @ (values - weights @ values / total))

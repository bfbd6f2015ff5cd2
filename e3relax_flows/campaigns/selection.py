"""Choose which candidates are labelled next: an explicit mix of scored, diverse and random ones, from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.schemas.campaigns import Arm, Mix, ScoredBy

Floats = NDArray[np.float64]

PLANE_WAVES = 2.0  # exponent of the electrons in the cost of a plane-wave relaxation at a constant density of k-points
EXPONENTS = (0.0, 4.0)  # between which a fitted exponent must lie
FEWEST_COSTS = 10  # relaxations from which a cost is fitted


@dataclass(frozen=True)
class Pool:
    """Data of the candidates of a campaign, in any order.

    Parameters
    ----------
    ids
        Structure ids, each once.
    errors
        [n] Å; the expected error of each prediction. NaN: it cannot be predicted, and is not chosen.
    costs
        [n] expected cost of relaxing each, in any one unit.
    embeddings
        [n, n_channels] embeddings by the network; None: no candidate can be chosen for diversity.

    Examples
    --------
    >>> import numpy as np
    >>> from e3relax_flows import SelectionPool
    >>> len(SelectionPool(["a", "b"], errors=np.array([0.1, 0.3]), costs=np.ones(2)).ids)
    2
    """

    ids: Sequence[str]
    errors: Floats
    costs: Floats
    embeddings: Floats | None = None


@dataclass(frozen=True)
class Choice:
    """One chosen candidate."""

    index: int  # in the pool
    arm: Arm
    score: float | None = None  # of scored ones
    distance: float | None = None  # of diverse ones: to the nearest one that was chosen before, in standard deviations


def choose_candidates(
    pool: Pool, mix: Mix, n: int, key: tuple[int, str], scored_by: ScoredBy = "error", taken: Sequence[int] = ()
) -> list[Choice]:
    """Choose `n` candidates that were not chosen yet; fewer if fewer are left.

    The random ones are drawn first, from all that are left, so that neither score nor diversity affects them:
    their errors are those of what is left of the pool. Then come the best scored, then those furthest in the latent
    space from all that were taken or chosen. An arm without data (no embeddings) gives its share to the
    random one. The choice depends on ids, numbers and key, not on the order of the pool.

    Parameters
    ----------
    pool
        All candidates, also those that were chosen before.
    mix
        Fractions of the arms.
    n
        How many.
    key
        Seed and purpose of the choice, such as the number of the generation.
    scored_by
        See `score_candidates`.
    taken
        Indices of candidates that were labelled before.

    Examples
    --------
    >>> import numpy as np
    >>> from e3relax_flows import SelectionMix, SelectionPool, choose_candidates
    >>> pool = SelectionPool(["a", "b", "c"], errors=np.array([0.1, 0.3, 0.2]), costs=np.ones(3))
    >>> choose_candidates(pool, SelectionMix(scored=1, random=0), 1, (0, "first"))[0].index
    1
    """
    is_free = np.isfinite(pool.errors)
    is_free[list(taken)] = False
    arms = dict(zip(Arm, divide(min(n, int(is_free.sum())), [mix.random, mix.scored, mix.diverse]), strict=True))
    if pool.embeddings is None:
        arms[Arm.RANDOM] += arms[Arm.DIVERSE]
        arms[Arm.DIVERSE] = 0
    chosen: list[Choice] = []

    def take(choices: list[Choice]) -> None:
        chosen.extend(choices)
        is_free[[choice.index for choice in choices]] = False

    draws = np.array([draw_uniform(key[0], f"{key[1]}:{name}") for name in pool.ids])
    take([Choice(i, Arm.RANDOM) for i in _pick_lowest(draws, pool.ids, is_free, arms[Arm.RANDOM])])
    scores = score_candidates(pool.errors, pool.costs, scored_by)
    best = _pick_lowest(-scores, pool.ids, is_free, arms[Arm.SCORED])
    take([Choice(i, Arm.SCORED, score=float(scores[i])) for i in best])
    if pool.embeddings is not None and arms[Arm.DIVERSE]:
        before = [*taken, *(choice.index for choice in chosen)]
        order = np.argsort(np.array(pool.ids))  # so that equal distances are decided by the ids
        ranks = np.empty(len(order), dtype=int)
        ranks[order] = np.arange(len(order))
        found = pick_farthest(
            standardize(pool.embeddings)[order], arms[Arm.DIVERSE], ranks[before].tolist(), is_free[order]
        )
        take([Choice(int(order[i]), Arm.DIVERSE, distance=distance) for i, distance in found])
    return chosen


def score_candidates(errors: Floats, costs: Floats, scored_by: ScoredBy) -> Floats:
    """Value of a label of each candidate over its price; larger is better.

    A label is worth the error that it removes. Where relaxations are to become shorter, an error of the start is
    worth hours in proportion to the cost of relaxing such a structure: value = error x cost. The right choice
    depends on the scarce resource:

    * `error`: DFT hours are, and saving DFT hours is the aim. The price of a label is the cost of its relaxation, so
      that value over price = error x cost / cost: the cost cancels. This is the default.
    * `error_x_cost`: the number of labels is scarce, whatever each costs (queues that count jobs): the price is one.
      It prefers the largest cells.
    * `error_per_cost`: DFT hours are scarce, and each structure's error counts the same whatever it costs to relax,
      as in the mean error that the gate looks at. It prefers the smallest cells.

    Parameters
    ----------
    errors
        [n] Å, expected.
    costs
        [n] expected, in any one unit.
    """
    if scored_by == "error_x_cost":
        return errors * costs
    return errors / costs if scored_by == "error_per_cost" else errors.copy()


def divide(n: int, fractions: Sequence[float]) -> list[int]:
    """Divide `n` by fractions that sum to one; rounding follows the largest remainders."""
    shares = [n * fraction for fraction in fractions]
    counts = [math.floor(share + 1e-9) for share in shares]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in order[: n - sum(counts)]:
        counts[i] += 1
    return counts


def standardize(embeddings: Floats) -> Floats:
    """Embeddings [n, n_channels] with mean 0 and deviation 1 in every channel that varies; rows of NaN stay."""
    mean, deviation = np.nanmean(embeddings, axis=0), np.nanstd(embeddings, axis=0)
    return (embeddings - mean) / np.where(deviation > 0, deviation, 1.0)


def pick_farthest(
    points: Floats, n: int, before: Sequence[int], is_free: NDArray[np.bool_] | None = None
) -> list[tuple[int, float]]:
    """Pick points one by one, each the farthest from all earlier ones.

    Parameters
    ----------
    points
        [n_points, n_channels]; rows of NaN are never picked.
    n
        Number of points; fewer if fewer are free.
    before
        Indices of earlier points; None: the first one picked is the farthest from the mean.
    is_free
        [n_points] which may be picked; None: all.

    Returns
    -------
    picked
        Index of each with its distance from the nearest one before it. Of equally far ones the first is picked.
    """
    free = np.ones(len(points), dtype=bool) if is_free is None else is_free.copy()
    known: NDArray[np.bool_] = ~np.isnan(points.sum(axis=1))
    free &= known
    free[list(before)] = False
    seeds = [index for index in before if known[index]]
    nearest = np.full(len(points), np.inf)
    for index in seeds:
        np.minimum(nearest, _measure_distances(points, points[index]), out=nearest)
    if not seeds and known.any():
        nearest = _measure_distances(points, points[known].mean(axis=0))
    picked: list[tuple[int, float]] = []
    for number in range(min(n, int(free.sum()))):
        index = int(np.argmax(np.where(free, nearest, -np.inf)))
        picked.append((index, float(nearest[index])))
        free[index] = False
        distances = _measure_distances(points, points[index])
        nearest = distances if not seeds and number == 0 else np.minimum(nearest, distances)
    return picked


def estimate_costs(n_electrons: Floats, known: Sequence[tuple[float, float]] = ()) -> Floats:
    """Expected cost of relaxing structures of so many electrons.

    cost = a · n^b, fitted to the logarithms of the costs of relaxations; from fewer than `FEWEST_COSTS` of them
    b = 2: electrons squared, as for plane waves at a constant density of k-points, and a = 1.

    Parameters
    ----------
    n_electrons
        [n] of each structure, core electrons too: a measure of size.
    known
        Electrons and hours of finished relaxations.
    """
    usable = [(electrons, hours) for electrons, hours in known if electrons > 0 and hours > 0]
    if len(usable) < FEWEST_COSTS:
        return n_electrons**PLANE_WAVES
    logs = np.log(np.array(usable))
    spread = logs[:, 0].std()
    slope = PLANE_WAVES if spread < 1e-6 else float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    slope = min(max(slope, EXPONENTS[0]), EXPONENTS[1])
    return np.exp(logs[:, 1].mean() + slope * (np.log(n_electrons) - logs[:, 0].mean()))


def _measure_distances(points: Floats, point: Floats) -> Floats:
    return np.sqrt(((points - point) ** 2).sum(axis=1))


def _pick_lowest(values: Floats, ids: Sequence[str], is_free: NDArray[np.bool_], n: int) -> list[int]:
    free = np.flatnonzero(is_free)
    order = sorted(free.tolist(), key=lambda index: (values[index], ids[index]))
    return order[:n]

"""Compare two models on all pairs of a holdout and on its strata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.savings import find_harmed
from e3relax_flows.judging.bootstrap import PairedErrors, divide_errors, draw_sums
from e3relax_flows.schemas.models import Comparison, GateLimits, Harm

ALL, SOURCE, STRATUM, SERVED, ORIGINAL = "all", "source: ", "stratum: ", "served: ", "original: "
SMALL_ONES = "(the small ones together)"

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """A comparison, with the lower ends of its intervals at the confidence divided among all strata."""

    comparison: Comparison
    strict_low: float
    strict_identity_low: float


@dataclass(frozen=True)
class MeasuredHarm:
    """Shares of harmed structures, with the lower end of their difference at the confidence divided among strata."""

    harm: Harm
    strict_low: float


@dataclass(frozen=True)
class PairedComparison:
    """Measures comparisons on one holdout."""

    prefix: str
    errors: PairedErrors
    limits: GateLimits
    n_judged: int

    def measure(self, name: str, mask: Mask, judged: bool = True) -> tuple[Measured, Measured]:
        """Compare the pairs of `mask`: predictions themselves, and what is served."""
        errors, limits = self.errors, self.limits
        own, served = (errors.challenger, errors.incumbent), (errors.served_challenger, errors.served_incumbent)
        columns = np.stack([*own, *served, errors.identity])[:, mask]
        groups = None if errors.groups is None else errors.groups[mask]
        sums, n_groups = draw_sums(columns, groups, limits.n_resamples, f"{limits.seed}:{self.prefix}{name}")
        means = columns.mean(axis=1)
        words = {"n": int(mask.sum()), "n_groups": n_groups, "judged": judged}
        return (
            self._compare(self.prefix + name, sums[[0, 1, 4]], means[[0, 1, 4]], words),
            self._compare(self.prefix + SERVED + name, sums[[2, 3, 4]], means[[2, 3, 4]], words),
        )

    def measure_harm(self, name: str, mask: Mask, judged: bool = True) -> MeasuredHarm:
        """Compare, on the pairs of `mask`, how many served structures are materially worse than the initial ones."""
        errors, limits = self.errors, self.limits
        accepted = np.stack([errors.challenger_accepted, errors.incumbent_accepted])[:, mask]
        served = np.stack([errors.served_challenger, errors.served_incumbent])[:, mask]
        harmed = accepted & find_harmed(errors.identity[mask], served)
        worse = (accepted & (served > errors.identity[mask])).mean(axis=1)
        columns = np.vstack([harmed, np.ones(harmed.shape[1])])
        groups = None if errors.groups is None else errors.groups[mask]
        sums, n_groups = draw_sums(columns, groups, limits.n_resamples, f"{limits.seed}:{self.prefix}{name}")
        differences = (sums[0] - sums[1]) / sums[2]
        tail, strict = self._list_tails(int(mask.sum()))
        shares, refused = harmed.mean(axis=1), 1 - accepted.mean(axis=1)
        harm = Harm(
            name=self.prefix + name,
            n=int(mask.sum()),
            n_groups=n_groups,
            challenger=float(shares[0]),
            incumbent=float(shares[1]),
            low=float(np.quantile(differences, tail)),
            high=float(np.quantile(differences, 1 - tail)),
            challenger_refused=float(refused[0]),
            incumbent_refused=float(refused[1]),
            challenger_any=float(worse[0]),
            incumbent_any=float(worse[1]),
            judged=judged,
        )
        return MeasuredHarm(harm, float(np.quantile(differences, strict)))

    def _list_tails(self, n: int) -> tuple[float, float]:
        """Shares below the lower end of an interval: of one, and of one among all strata judged."""
        tail = (1 - self.limits.confidence) / 2
        return tail, tail if n == len(self.errors) else tail / self.n_judged

    def _compare(self, name: str, sums: Floats, means: Floats, words: dict[str, Any]) -> Measured:
        tail, strict = self._list_tails(words["n"])
        changes, identity_changes = divide_errors(sums[0], sums[1]), divide_errors(sums[0], sums[2])
        comparison = Comparison(
            name=name,
            challenger=float(means[0]),
            incumbent=float(means[1]),
            identity=float(means[2]),
            change=float(divide_errors(means[0], means[1])),
            low=float(np.quantile(changes, tail)),
            high=float(np.quantile(changes, 1 - tail)),
            identity_low=float(np.quantile(identity_changes, tail)),
            **words,
        )
        return Measured(comparison, float(np.quantile(changes, strict)), float(np.quantile(identity_changes, strict)))


def list_strata(errors: PairedErrors, min_stratum: int) -> Iterator[tuple[str, Mask, bool]]:
    """Name, mask and whether it is judged, of each source and stratum that does not hold all pairs."""
    for prefix, names in ((SOURCE, errors.sources), (STRATUM, errors.strata)):
        values, counts = np.unique(names, return_counts=True)
        if len(values) == 1:
            continue
        for value, count in zip(values, counts, strict=True):
            yield prefix + str(value), names == value, bool(count >= min_stratum)
        small = values[counts < min_stratum]
        mask = np.isin(names, small)
        if len(small) > 1 and min_stratum <= mask.sum() < len(errors):
            yield prefix + SMALL_ONES, mask, True


def describe_comparison(comparison: Comparison, limits: GateLimits) -> str:
    """A comparison on one line, with its numbers."""
    groups = f" in {comparison.n_groups} groups" if comparison.n_groups else ""
    return (
        f"{comparison.name} ({comparison.n} pairs{groups}): error {comparison.challenger:.4f} Å, the incumbent's "
        f"{comparison.incumbent:.4f} Å, change {comparison.change:+.1%} "
        f"({limits.confidence:.0%}: {comparison.low:+.1%} to {comparison.high:+.1%})"
    )


def describe_harm(harm: Harm, limits: GateLimits) -> str:
    """Shares of harmed structures on one line."""
    groups = f" in {harm.n_groups} groups" if harm.n_groups else ""
    any_worse = ""
    if harm.challenger_any is not None and harm.incumbent_any is not None:
        any_worse = f"; worse at all {harm.challenger_any:.1%} and {harm.incumbent_any:.1%}"
    return (
        f"{harm.name} ({harm.n} pairs{groups}): {harm.challenger:.1%} served materially worse than before, by the "
        f"incumbent {harm.incumbent:.1%}, difference {limits.confidence:.0%}: {harm.low:+.1%} to {harm.high:+.1%}"
        f"{any_worse}; refused {harm.challenger_refused:.1%} and {harm.incumbent_refused:.1%}"
    )

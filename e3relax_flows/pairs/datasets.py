"""Freeze holdouts and build datasets: lists of pair ids, split by groups, from pairs read one after another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

from e3relax_flows.core.errors import ConfigError, TooFewPairsError
from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.schemas.datasets import (
    DatasetDoc,
    GroupBy,
    HoldoutDoc,
    PairFilter,
    identify_dataset,
    identify_holdout,
)
from e3relax_flows.schemas.pairs import PairDoc

MIN_PAIRS = 20  # of a holdout: as many as the gate needs of a stratum
# groups are drawn separately for each purpose, or none would be left to validate on outside of the holdout
HOLDOUT_DRAW, VALIDATION_DRAW = "holdout", "validation"


class PairNote(NamedTuple):
    """The fields of a pair that are kept in memory: enough to split by."""

    pair_id: str
    groups: dict[GroupBy, str]
    source: str
    functional: str


@dataclass
class Collected:
    """The pairs that a filter accepts, and a count of the others."""

    notes: list[PairNote]
    left_out: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """Such as "3 pairs were left out (not_dft: 2, superseded: 1)"."""
        if not self.left_out:
            return "no pair was left out"
        counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.left_out.items()))
        advice = "; --potentials, or filter.dft_only: false, includes those" if self.left_out["not_dft"] else ""
        return f"{sum(self.left_out.values())} pairs were left out ({counts}{advice})"


def name_group(pair: PairDoc, group_by: GroupBy) -> str:
    """The group of a pair."""
    return pair.prototype if group_by == "prototype" else pair.chemical_system


def explain_leaving_out(pair: PairDoc, filter: PairFilter) -> str | None:
    """Why `filter` leaves a pair out, as a code; None if it accepts the pair."""
    checks = (
        ("superseded", pair.superseded_by is not None),
        ("not_finite", not pair.is_finite),
        ("functional", filter.functionals is not None and spell_functional(pair.functional) not in filter.functionals),
        ("source", filter.sources is not None and pair.source not in filter.sources),
        ("start_kind", filter.start_kinds is not None and pair.start_kind not in filter.start_kinds),
        ("not_dft", filter.dft_only and not pair.is_dft),
        ("not_free", filter.full_freedom and not pair.free.is_full),
        ("too_large", filter.max_atoms is not None and pair.n_atoms > filter.max_atoms),
    )
    return next((reason for reason, holds in checks if holds), None)


def freeze_holdout(
    pairs: Iterable[PairDoc],
    name: str,
    group_by: GroupBy,
    take: float | Sequence[str],
    filter: PairFilter | None = None,
    seed: int = 0,
    min_pairs: int = MIN_PAIRS,
) -> HoldoutDoc:
    """Choose whole groups of pairs that no model shall be trained on.

    A fraction is taken of the groups of each source (a group belongs to the source of most of its pairs): at least
    one where there are two, never all. The choice depends only on the groups and the seed.

    Parameters
    ----------
    pairs
        Read once, in any order.
    take
        A fraction of the groups, or their names; names may be those of all, before a campaign makes pairs of others.
    filter
        Which pairs are selected; None: the default filter.
    min_pairs
        How many pairs the holdout must have.

    Raises
    ------
    ConfigError
        When the fraction is not between 0 and 1, a named group is unknown, functionals would be mixed, or the pairs
        are too few.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PairFilter, freeze_holdout
    >>> from e3relax_flows.testing import make_pair
    >>> pair = make_pair(*(Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5)))
    >>> freeze_holdout([pair], "mine", "chemical_system", ["Cu"], PairFilter(dft_only=False), min_pairs=1).strata
    {'screen': 1}
    """
    filter = filter or PairFilter()
    collected = collect_notes(pairs, filter)
    by_group: dict[str, list[PairNote]] = defaultdict(list)
    for note in collected.notes:
        by_group[note.groups[group_by]].append(note)
    groups = _choose_groups(by_group, take, group_by, seed)
    held = [note for group in groups for note in by_group[group]]
    _check_enough(len(held), take, min_pairs, collected)
    pair_ids = sorted(note.pair_id for note in held)
    return HoldoutDoc(
        holdout_id=identify_holdout(pair_ids),
        name=name,
        group_by=group_by,
        groups=groups,
        pair_ids=pair_ids,
        fraction=float(take) if isinstance(take, float | int) else None,
        seed=seed,
        filter=filter,
        strata=dict(sorted(Counter(note.source for note in held).items())),
    )


def build_dataset(
    pairs: Iterable[PairDoc],
    holdouts: Sequence[HoldoutDoc],
    filter: PairFilter | None = None,
    group_by: GroupBy = "chemical_system",
    val_fraction: float = 0.1,
    seed: int = 0,
) -> DatasetDoc:
    """Split the pairs that may be trained on by groups into training and validation.

    Whether a group is for validation depends on its name and the seed alone, so that it stays there while pairs
    accumulate: the next model is not validated on what its parent was trained on. (Where that leaves one side empty,
    the group that is drawn lowest is for validation, or the one drawn highest for training.) A pair of a held-out group
    that is in no holdout is in quarantine: counted, never trained on.

    Parameters
    ----------
    pairs
        Read once, in any order.
    holdouts
        All that must be excluded.
    val_fraction
        Of the groups, about.

    Raises
    ------
    ConfigError
        When functionals would be mixed, or the pairs that may be trained on have fewer than two groups.
    """
    filter = filter or PairFilter()
    collected = collect_notes(pairs, filter)
    free, n_quarantined = _group_free(collected.notes, holdouts, group_by)
    if len(free) < 2:
        raise TooFewPairsError(
            f"{sum(map(len, free.values()))} pairs of {len(free)} groups ({group_by}) may be trained on, at least two "
            f"groups are needed: {len(collected.notes)} pairs are wanted, {n_quarantined} of them are of held-out "
            f"groups and not in a holdout, {collected.describe()}; build or import more pairs (e3relax data build, "
            "e3relax data import), or widen the filter"
        )
    validation = _draw_validation(free, val_fraction, seed)
    train = [note for group, notes in free.items() if group not in validation for note in notes]
    train_ids = sorted(note.pair_id for note in train)
    val_ids = sorted(note.pair_id for group in validation for note in free[group])
    return DatasetDoc(
        dataset_id=identify_dataset(train_ids, val_ids),
        train=train_ids,
        val=val_ids,
        holdout_ids=sorted({holdout.holdout_id for holdout in holdouts}),
        group_by=group_by,
        val_fraction=val_fraction,
        seed=seed,
        filter=filter,
        sources=dict(sorted(Counter(note.source for note in train).items())),
        functionals=dict(sorted(Counter(note.functional for note in train).items())),
        n_quarantined=n_quarantined,
        left_out=dict(sorted(collected.left_out.items())),
    )


def _group_free(
    notes: Iterable[PairNote], holdouts: Sequence[HoldoutDoc], group_by: GroupBy
) -> tuple[dict[str, list[PairNote]], int]:
    """The pairs that may be trained on, by group, and the number of those in quarantine."""
    held_ids = {pair_id for holdout in holdouts for pair_id in holdout.pair_ids}
    held_groups = {(holdout.group_by, group) for holdout in holdouts for group in holdout.groups}
    free: dict[str, list[PairNote]] = defaultdict(list)
    n_quarantined = 0
    for note in notes:
        if note.pair_id in held_ids:
            continue
        if held_groups.isdisjoint(note.groups.items()):
            free[note.groups[group_by]].append(note)
        else:
            n_quarantined += 1
    return free, n_quarantined


def collect_notes(pairs: Iterable[PairDoc], filter: PairFilter) -> Collected:
    """Read pairs one after another and note each one that `filter` accepts, once.

    Raises
    ------
    ConfigError
        When the accepted pairs are of several functionals that the filter does not allow to be mixed.
    """
    notes: dict[str, PairNote] = {}
    left_out: Counter[str] = Counter()
    for pair in pairs:
        reason = explain_leaving_out(pair, filter)
        if reason is not None:
            left_out[reason] += 1
            continue
        groups: dict[GroupBy, str] = {"prototype": pair.prototype, "chemical_system": pair.chemical_system}
        notes[pair.pair_id] = PairNote(pair.pair_id, groups, pair.source, spell_functional(pair.functional))
    counts = Counter(note.functional for note in notes.values())
    if filter.functionals is None and len(counts) > 1:
        found = ", ".join(f"{name} ({count} pairs)" for name, count in sorted(counts.items()))
        raise ConfigError(
            f"the pairs were relaxed with different functionals: {found}; choose one with filter.functionals: "
            f"[{counts.most_common(1)[0][0]}] (--functional on the command line), or name all that may be mixed"
        )
    return Collected(list(notes.values()), left_out)


def _draw_groups(by_group: dict[str, list[PairNote]], fraction: float, seed: int) -> list[str]:
    """Names of a fraction of the groups of every source."""
    if not 0 < fraction < 1:
        raise ConfigError(f"a fraction of {fraction:g} of the groups cannot be held out; give one between 0 and 1")
    strata: dict[str, list[str]] = defaultdict(list)
    for group, notes in by_group.items():
        counts = Counter(note.source for note in notes)
        strata[min(counts, key=lambda source: (-counts[source], source))].append(group)
    chosen: list[str] = []
    for names in strata.values():
        n_chosen = min(max(round(fraction * len(names)), 1), len(names) - 1)
        chosen += _sort_by_draw(names, HOLDOUT_DRAW, seed)[:n_chosen]
    return sorted(chosen)


def _draw_validation(groups: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Groups to validate on: those drawn below `fraction`, but at least one and never all."""
    ranked = _sort_by_draw(groups, VALIDATION_DRAW, seed)
    n_below = sum(_draw(name, VALIDATION_DRAW, seed) < fraction for name in ranked)
    return set(ranked[: min(max(n_below, 1), len(ranked) - 1)])


def _sort_by_draw(names: Iterable[str], purpose: str, seed: int) -> list[str]:
    return sorted(names, key=lambda name: (_draw(name, purpose, seed), name))


def _draw(name: str, purpose: str, seed: int) -> float:
    return draw_uniform(seed, f"{purpose}:{name}")


def _choose_groups(
    by_group: dict[str, list[PairNote]], take: float | Sequence[str], group_by: GroupBy, seed: int
) -> list[str]:
    """The groups that a fraction draws, or those that are named."""
    if isinstance(take, float | int):
        return _draw_groups(by_group, float(take), seed)
    return _check_groups(by_group, sorted({take} if isinstance(take, str) else set(take)), group_by)


def _check_groups(by_group: dict[str, list[PairNote]], names: list[str], group_by: GroupBy) -> list[str]:
    """The names, checked against the existing groups."""
    if unknown := [name for name in names if name not in by_group]:
        near = get_close_matches(unknown[0], by_group, n=3, cutoff=0.4) or sorted(by_group)[:3]
        raise ConfigError(
            f"no pair is of the group {unknown[0]!r} ({group_by}); there are {len(by_group)} groups, such as "
            f"{', '.join(near) or 'none'}; chemical systems are written with their elements sorted: Cl-Na"
        )
    return names


def _check_enough(n_held: int, take: float | Sequence[str], min_pairs: int, collected: Collected) -> None:
    more = "a larger --fraction" if isinstance(take, float | int) else "more groups (--group)"
    if n_held < min_pairs:
        raise ConfigError(
            f"the holdout would have {n_held} of {len(collected.notes)} pairs, at least {min_pairs} are needed to "
            f"compare models ({collected.describe()}); give {more}, build or import more pairs (e3relax data build, "
            "e3relax data import), or lower --min-pairs"
        )


def choose_pairs(
    dataset: DatasetDoc, old: Collection[str], fraction: float, seed: int, bundled: Collection[str] = ()
) -> set[str]:
    """Ids of all new pairs of a dataset and of so many old ones that these are `fraction` of the whole.

    If there are fewer old pairs than that, all of them are used. The choice depends only on ids and seed.

    Parameters
    ----------
    dataset
        New and old pairs together.
    old
        Pair ids that count as old.
    bundled
        Ids of further old pairs besides the dataset.

    Raises
    ------
    ConfigError
        When no pair is new, or old pairs are needed and there are none.
    """
    ids = {*dataset.train, *dataset.val}
    new = ids.difference(old)
    if not new:
        raise TooFewPairsError(
            f"all {len(ids)} pairs were in the incumbent's training already; build pairs from new results first "
            "(e3relax data build), or train from scratch with method: scratch"
        )
    if fraction == 0:
        return new
    pool = (ids - new).union(bundled)
    if not pool:
        raise ConfigError(
            f"{fraction:.0%} of the pairs should be old ones, but none of the {len(ids)} is; import the pairs that the "
            "incumbent was trained on (e3relax data import FILE --source original) and set replay.sources: "
            "[original], replay those of the package (replay.bundled: true), or set replay.fraction: 0"
        )
    n_old = round(fraction / (1 - fraction) * len(new))
    drawn = sorted(pool, key=lambda name: (draw_uniform(seed, name), name))[:n_old]
    return new.union(drawn)

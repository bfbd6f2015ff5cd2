"""`e3relax data freeze`, `data holdouts`, `data dataset`: pairs held out of all trainings, and those to train on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.groups import spread
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.report.console import follow, out, plain

if TYPE_CHECKING:
    from e3relax_flows.schemas.datasets import DatasetDoc, GroupBy, HoldoutDoc, PairFilter

GROUPS = ("chemical_system", "prototype")

ByOption = Annotated[str, typer.Option("--by", help="What is never divided.", metavar="|".join(GROUPS))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


@dataclass(frozen=True)
class FilterGroup:
    """Which pairs are taken."""

    functional: Annotated[
        list[str] | None, typer.Option("--functional", help="Functional to include; repeat those that may be mixed.")
    ] = None
    source: Annotated[list[str] | None, typer.Option("--source", help="Source to use; repeatable; none: all.")] = None
    potentials: Annotated[bool, typer.Option("--potentials", help="Include relaxations by potentials, not DFT.")] = (
        False
    )
    partly_free: Annotated[bool, typer.Option("--partly-free", help="Include relaxations with cell or sites held.")] = (
        False
    )
    max_atoms: Annotated[int | None, typer.Option(help="Largest number of atoms.", min=1)] = None

    def build(self) -> PairFilter:
        """The filter."""
        from e3relax_flows.schemas.datasets import PairFilter

        return PairFilter(
            functionals=self.functional or None,
            sources=self.source or None,
            dft_only=not self.potentials,
            full_freedom=not self.partly_free,
            max_atoms=self.max_atoms,
        )


@dataclass(frozen=True)
class KeepingGroup:
    """How groups are chosen, and whether the choice is kept."""

    seed: Annotated[int, typer.Option(help="Seed of the choice of groups.")] = 0
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be done, and store nothing.")] = False
    as_json: JsonOption = False


@spread
def freeze_pairs(
    name: Annotated[str, typer.Argument(help="Name of the holdout.")],
    *,
    by: ByOption = GROUPS[0],
    fraction: Annotated[float | None, typer.Option(help="Of the groups of every source.", min=0, max=1)] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="Group to hold out, such as Cl-Na.")] = None,
    min_pairs: Annotated[int, typer.Option(help="Smallest number of pairs in the holdout.", min=2)] = 20,
    wanted: FilterGroup,
    keeping: KeepingGroup,
) -> None:
    """Hold whole groups of pairs out of every training; models are judged on them."""
    from e3relax_flows.pairs.dataset_store import find_same_holdout, open_dataset_stores, save_holdout
    from e3relax_flows.pairs.datasets import freeze_holdout
    from e3relax_flows.pairs.store import iter_pairs, open_pair_store

    if (fraction is None) == (not group):
        raise ConfigError("name what is held out:  --fraction 0.1 of the groups, or --group A-B for every group")
    with open_dataset_stores() as stores, open_pair_store() as pairs:
        take = fraction if fraction is not None else group or []
        found = follow(iter_pairs(pairs), "reading pairs")
        holdout = freeze_holdout(found, name, _check_by(by), take, wanted.build(), keeping.seed, min_pairs)
        kept = find_same_holdout(stores, holdout)
        if not keeping.dry_run:
            holdout = save_holdout(stores, holdout)
    if keeping.as_json:
        typer.echo(json.dumps(_describe(holdout) | {"groups": holdout.groups, "dry_run": keeping.dry_run}, indent=1))
        return
    what = "would be held out" if keeping.dry_run else "were held out before, unchanged" if kept else "are held out"
    strata = ", ".join(f"{source}: {count}" for source, count in holdout.strata.items())
    _print(f"{len(holdout.pair_ids)} pairs ({strata}) in {len(holdout.groups)} groups by {by} {what}")
    _print(f"holdout {name}, id {holdout.holdout_id}; later pairs of these groups are not trained on either")


def show_holdouts(as_json: JsonOption = False) -> None:
    """List the holdouts."""
    from rich.table import Table

    from e3relax_flows.pairs.dataset_store import list_holdouts, open_dataset_stores

    with open_dataset_stores() as stores:
        rows = [_describe(holdout) for holdout in list_holdouts(stores)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        _print("no holdout yet; freeze one with: e3relax data freeze NAME --fraction 0.1")
        return
    table = Table()
    for column in ("name", "holdout id", "pairs", "groups", "by", "sources", "frozen"):
        table.add_column(column, justify="right" if column in ("pairs", "groups") else "left", overflow="fold")
    for row in rows:
        sources = ", ".join(f"{source}: {count}" for source, count in row["strata"].items())
        cells = [row["name"], row["holdout_id"], row["n_pairs"], row["n_groups"], row["group_by"], sources]
        table.add_row(*map(plain, map(str, [*cells, row["frozen_at"][:10]])))
    out.print(table)


@spread
def prepare_dataset(
    *,
    holdout: Annotated[
        list[str] | None, typer.Option("--holdout", help="Holdout to exclude; repeatable; none: all.")
    ] = None,
    by: ByOption = GROUPS[0],
    val_fraction: Annotated[float, typer.Option(help="Of the groups, for validation.", min=0, max=1)] = 0.1,
    wanted: FilterGroup,
    keeping: KeepingGroup,
) -> None:
    """Count the pairs that may be trained on, split them by groups, and store their ids as a dataset."""
    from e3relax_flows.pairs.dataset_store import find_holdout, list_holdouts, open_dataset_stores, save_dataset
    from e3relax_flows.pairs.datasets import build_dataset
    from e3relax_flows.pairs.store import iter_pairs, open_pair_store

    with open_dataset_stores() as stores, open_pair_store() as pairs:
        holdouts = [find_holdout(stores, name) for name in holdout] if holdout else list_holdouts(stores)
        found = follow(iter_pairs(pairs), "reading pairs")
        dataset = build_dataset(found, holdouts, wanted.build(), _check_by(by), val_fraction, keeping.seed)
        if not keeping.dry_run:
            dataset = save_dataset(stores, dataset)
    if keeping.as_json:
        names = [doc.name for doc in holdouts]
        typer.echo(json.dumps(_count(dataset) | {"holdouts": names, "dry_run": keeping.dry_run}, indent=1))
        return
    _print_dataset(dataset, holdouts, keeping.dry_run)


def _print_dataset(dataset: DatasetDoc, holdouts: list[HoldoutDoc], dry_run: bool) -> None:
    words = {
        "to train on": f"{len(dataset.train)} ({_list_counts(dataset.sources)}; {_list_counts(dataset.functionals)})",
        "to validate on": str(len(dataset.val)),
        "held out": ", ".join(f"{doc.name}: {len(doc.pair_ids)}" for doc in holdouts) or "none",
        "in quarantine": f"{dataset.n_quarantined}, of held-out groups",
        "left out": _list_counts(dataset.left_out) or "none",
    }
    for what, count in words.items():
        _print(f"{what:<16}{count}")
    _print(f"dataset {dataset.dataset_id}{', not stored' if dry_run else ''}")


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _count(dataset: DatasetDoc) -> dict[str, Any]:
    content = dataset.model_dump(mode="json", exclude={"train", "val", "versions"})
    return {"n_train": len(dataset.train), "n_val": len(dataset.val)} | content


def _describe(holdout: HoldoutDoc) -> dict[str, Any]:
    content = holdout.model_dump(mode="json", exclude={"pair_ids", "groups", "versions"})
    return content | {"n_pairs": len(holdout.pair_ids), "n_groups": len(holdout.groups)}


def _check_by(by: str) -> GroupBy:
    if by not in GROUPS:
        raise ConfigError(f"--by {by!r} is unknown; known: {', '.join(GROUPS)}")
    return by  # type: ignore[return-value]


def _print(text: str) -> None:
    out.print(plain(text), soft_wrap=True)

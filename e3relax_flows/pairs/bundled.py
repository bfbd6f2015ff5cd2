"""The replay set of the package: pairs relaxed by a potential, replayed when a model is fine-tuned."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maggma.core import Store
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.pairs.datasets import explain_leaving_out, name_group
from e3relax_flows.pairs.store import find_pairs
from e3relax_flows.schemas.datasets import DatasetDoc, GroupBy, HoldoutDoc, PairFilter, identify_dataset
from e3relax_flows.schemas.pairs import PairDoc, PairStart

FOLDER = Path(__file__).parent / "replay_set"
PAIRS_FILE, CARD_FILE = "pairs.jsonl.gz", "card.md"
# functionals of the user's pairs with which it is replayed: it was relaxed by a potential for PBE and PBE+U
SUITED = frozenset(
    {"PBE", "PBE+U", "CHGNet", "CHGNet-0.3.0", "CHGNet-0.2.0", "SevenNet", "SevenNet-0", "SevenNet-l3i5", "MACE-MP-0"}
)


@lru_cache(maxsize=1)
def load_bundled() -> Mapping[str, PairDoc]:
    """All pairs of the replay set by their ids; no pair of it is a DFT result.

    Raises
    ------
    ConfigError
        When its file is damaged or missing.
    """
    path = FOLDER / PAIRS_FILE
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            docs = [_read_line(json.loads(line)) for line in stream]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path}: the replay set of the package cannot be read ({error}); install e3relax-flows again, or set "
            "replay.bundled: false"
        ) from error
    return MappingProxyType({doc.pair_id: doc for doc in docs})


def choose_bundled(
    holdouts: Sequence[HoldoutDoc], validated: Collection[str], group_by: GroupBy, filter: PairFilter
) -> set[str]:
    """Ids of the bundled pairs that may be trained on beside the user's: none of a group in a holdout or in validation.

    Parameters
    ----------
    holdouts
        All that must be excluded.
    validated
        Groups that are validated on.
    group_by
        Kind of these groups.
    filter
        The user's; its functionals, sources and `dft_only` are not applied here.
    """
    relaxed = filter.model_copy(update={"functionals": None, "sources": None, "start_kinds": None, "dft_only": False})
    held = {(holdout.group_by, group) for holdout in holdouts for group in holdout.groups}
    held |= {(group_by, group) for group in validated}
    return {
        doc.pair_id
        for doc in load_bundled().values()
        if explain_leaving_out(doc, relaxed) is None
        and held.isdisjoint({("prototype", doc.prototype), ("chemical_system", doc.chemical_system)})
    }


def add_bundled(dataset: DatasetDoc, ids: Collection[str]) -> DatasetDoc:
    """The dataset with bundled pairs among those to train on; they are never validated on."""
    if not ids:
        return dataset
    docs = [load_bundled()[name] for name in ids]
    train = sorted({*dataset.train, *ids})
    return dataset.model_copy(
        update={
            "dataset_id": identify_dataset(train, dataset.val),
            "train": train,
            "sources": _add_counts(dataset.sources, (doc.source for doc in docs)),
            "functionals": _add_counts(dataset.functionals, (doc.functional for doc in docs)),
        }
    )


def find_all_pairs(store: Store, ids: Sequence[str]) -> dict[str, PairDoc]:
    """Those pairs of `ids` that are in the store or in the replay set, by id."""
    found = find_pairs(store, ids)
    if len(found) == len(set(ids)):
        return found
    bundled = load_bundled()
    return found | {name: bundled[name] for name in ids if name in bundled and name not in found}


def list_groups(pairs: Iterable[PairDoc], ids: Collection[str], group_by: GroupBy) -> set[str]:
    """Groups of those pairs that are in `ids`."""
    return {name_group(doc, group_by) for doc in pairs if doc.pair_id in ids}


def _read_line(line: dict[str, Any]) -> PairDoc:
    """A line that `write_pair_file` wrote; since it is ours, it is not checked again."""
    initial, relaxed = (
        Structure(Lattice(line[side]["lattice"]), line["numbers"], line[side]["frac"])
        for side in ("initial", "relaxed")
    )
    return PairDoc(
        pair_id=line["id"],
        origin_id=line["id"],
        id=line["name"],
        initial=initial,
        relaxed=relaxed,
        start_kind=PairStart(line["start"]),
        source=line["source"],
        functional=line["functional"],
        code=line["code"],
        is_dft=line["is_dft"],
        energy=line["energy"],
        formula=line["formula"],
        chemical_system=line["chemical_system"],
        prototype=line["prototype"],
        n_atoms=len(initial),
    )


def _add_counts(counts: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    total = dict(counts)
    for name in names:
        total[name] = total.get(name, 0) + 1
    return dict(sorted(total.items()))

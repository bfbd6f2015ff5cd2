"""Documents of datasets and holdouts: lists of pair ids that never change."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.displays import Displayed, Summary, keep_known
from e3relax_flows.schemas.functionals import FunctionalName
from e3relax_flows.schemas.pairs import PairStart

GroupBy = Literal["prototype", "chemical_system"]


class PairFilter(BaseModel):
    """Which pairs of the store are selected.

    Examples
    --------
    Pairs of PBE relaxations of small cells; whatever is relaxed by a potential is left out:

    >>> from e3relax_flows import PairFilter
    >>> wanted = PairFilter(functionals=["PBE"], max_atoms=40)
    >>> wanted.dft_only, wanted.full_freedom
    (True, True)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    functionals: list[FunctionalName] | None = Field(
        None, description="that may occur together; none: only one may occur"
    )
    sources: list[str] | None = Field(None, description="none: all")
    start_kinds: list[PairStart] | None = Field(None, description="none: all; the initial side is never a prediction")
    dft_only: bool = Field(True, description="leave out relaxations by potentials")
    full_freedom: bool = Field(True, description="leave out relaxations in which cell or sites were held")
    max_atoms: int | None = Field(None, ge=1)


class HoldoutDoc(Displayed, BaseModel):
    """Pairs that no model is trained on, frozen once under a name; found by `holdout_id`.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PairFilter, freeze_holdout
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> wanted = PairFilter(dft_only=False)
    >>> held = freeze_holdout([make_pair(before, after)], "mine", "chemical_system", ["Cu"], wanted, min_pairs=1)
    >>> held.name, held.groups, len(held.pair_ids)
    ('mine', ['Cu'], 1)
    """

    holdout_id: str
    name: str
    group_by: GroupBy
    groups: list[str] = Field(description="every pair of these is held out, also those that come later")
    pair_ids: list[str] = Field(description="sorted; models are judged on these")
    fraction: float | None = Field(None, description="of the groups, as configured; None: groups were named")
    seed: int = 0
    filter: PairFilter = Field(default_factory=lambda: PairFilter())
    strata: dict[str, int] = Field(default_factory=dict, description="pairs by source")
    frozen_at: datetime = Field(default_factory=now)
    versions: dict[str, str] = Field(default_factory=collect_versions)

    def summarize(self) -> Summary:
        """The displayed fields."""
        facts: list[tuple[str, object]] = [
            ("pairs", len(self.pair_ids)),
            (f"groups by {self.group_by}", len(self.groups)),
            *((f"- {source}", n) for source, n in self.strata.items()),
            ("fraction of groups", self.fraction),
            ("frozen", f"{self.frozen_at:%Y-%m-%d %H:%M} UTC"),
        ]
        return Summary(f"{self.name}: holdout {self.holdout_id}", keep_known(facts))


class DatasetDoc(Displayed, BaseModel):
    """Pairs of a training, split by groups; found by `dataset_id`."""

    dataset_id: str
    train: list[str] = Field(description="pair ids, sorted")
    val: list[str] = Field(description="pair ids, sorted; they choose the best weights")
    holdout_ids: list[str] = Field(default_factory=list, description="holdouts that were kept apart")
    group_by: GroupBy
    val_fraction: float
    seed: int = 0
    filter: PairFilter = Field(default_factory=lambda: PairFilter())
    sources: dict[str, int] = Field(default_factory=dict, description="pairs of train by source")
    functionals: dict[str, int] = Field(default_factory=dict, description="pairs of train by functional")
    n_quarantined: int = Field(0, description="pairs of held-out groups that are in no holdout, and not trained on")
    left_out: dict[str, int] = Field(default_factory=dict, description="pairs that the filter left out, by reason")
    created_at: datetime = Field(default_factory=now)
    versions: dict[str, str] = Field(default_factory=collect_versions)

    def summarize(self) -> Summary:
        """The displayed fields."""
        facts: list[tuple[str, object]] = [
            ("train", len(self.train)),
            *((f"- {source}", n) for source, n in self.sources.items()),
            *((f"- {functional}", n) for functional, n in self.functionals.items()),
            ("val", len(self.val)),
            ("quarantined", self.n_quarantined),
            ("split by", self.group_by),
            ("holdouts kept apart", self.holdout_ids),
            ("created", f"{self.created_at:%Y-%m-%d %H:%M} UTC"),
        ]
        return Summary(f"dataset {self.dataset_id}", keep_known(facts))


def identify_holdout(pair_ids: list[str]) -> str:
    """Id of a holdout: its sorted pair ids."""
    return hash_content(sorted(pair_ids))


def identify_dataset(train: list[str], val: list[str]) -> str:
    """Id of a dataset: the sorted pair ids of its splits."""
    return hash_content({"train": sorted(train), "val": sorted(val)})

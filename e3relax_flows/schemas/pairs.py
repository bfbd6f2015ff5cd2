"""Documents of pairs initial -> relaxed: training data from finished relaxations, and why others give none."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from e3relax_flows.core.finite import is_finite_number, is_finite_structure
from e3relax_flows.core.ids import hash_content, identify_structure
from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.displays import Displayed, Summary, describe_structure, keep_known
from e3relax_flows.schemas.functionals import FunctionalName
from e3relax_flows.schemas.predictions import JsonStructure


class PairStart(StrEnum):
    """Where the relaxation of a pair began.

    raw: at the initial structure; predicted: at a prediction for it; control: at the initial structure although the
    prediction was accepted. The initial side of the pair is the initial structure in all three.
    """

    RAW = "raw"
    PREDICTED = "predicted"
    CONTROL = "control"


class Freedom(BaseModel):
    """What the relaxation was free to change."""

    model_config = ConfigDict(frozen=True)

    volume: bool = True
    shape: bool = True
    sites: bool = True

    @property
    def is_full(self) -> bool:
        """Whether nothing was held, so that both lattice and sites are targets."""
        return self.volume and self.shape and self.sites


class PairDoc(Displayed, BaseModel):
    """One crystal before and after relaxation, found by `pair_id`, the hash of its content.

    Sites correspond: `relaxed` has the site order of `initial`, each fractional coordinate is the nearest image of the
    initial one with the mean drift removed, and the relaxed lattice is turned so that the deformation from the
    initial one is symmetric.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> pair = make_pair(before, after)
    >>> pair.formula, pair.functional, pair.prototype, pair.free.is_full
    ('Cu', 'EMT', 'A_cF4_225_a', True)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pair_id: str
    origin_id: str = Field(description="the calculation; if it is run again, its new pair replaces this one")
    superseded_by: str | None = Field(
        None,
        description="pair of the same origin that replaced this one; left_out:REASON where the calculation "
        "was run again and gave none",
    )
    id: str | None = Field(None, description="the user's name for the structure: an MP id, a file name")
    initial: JsonStructure
    relaxed: JsonStructure
    start_kind: PairStart
    model_id: str | None = Field(None, description="model that made the start; None where it was not predicted")
    prediction_id: str | None = None
    source: str = Field(description="where the pair comes from; errors are reported by source")
    functional: FunctionalName = Field(description="PBE, PBE+U, PBE at 50 GPa, ...; a potential by its name: CHGNet")
    functional_path: list[FunctionalName] = Field(
        default_factory=list,
        description="functionals of consecutive relaxations; the last one is that of the pair",
    )
    code: str = Field(description="VASP, GPAW, CHGNet, ...")
    is_dft: bool
    free: Freedom = Field(default_factory=lambda: Freedom())
    energy: float | None = Field(None, description="eV per cell, relaxed")
    n_ionic_steps: int | None = None
    n_electronic_steps: int | None = None
    formula: str = Field(description="reduced")
    chemical_system: str = Field(description="elements, sorted, joined by -")
    prototype: str = Field(description="of the initial structure: anonymous formula, space group, Wyckoff sites")
    n_atoms: int
    task_ids: list[str] = Field(default_factory=list)
    job_uuids: list[str] = Field(default_factory=list)
    hosts: list[str] = Field(default_factory=list, description="flows around the jobs, innermost first")
    dir_names: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=collect_versions)
    last_updated: datetime = Field(default_factory=now)

    @property
    def is_finite(self) -> bool:
        """Whether energy, lattices and coordinates are numbers; stores of older releases hold pairs that are not."""
        return (self.energy is None or is_finite_number(self.energy)) and all(
            map(is_finite_structure, (self.initial, self.relaxed))
        )

    def summarize(self) -> Summary:
        """The displayed fields."""
        held = [name for name, is_free in self.free.model_dump().items() if not is_free]
        facts: list[tuple[str, object]] = [
            ("initial", describe_structure(self.initial)),
            ("relaxed", describe_structure(self.relaxed)),
            ("started from", self.start_kind),
            ("model of the start", self.model_id),
            ("functional", self.functional),
            ("code", self.code if self.is_dft else f"{self.code}, not DFT"),
            ("held", held),
            ("ionic steps", self.n_ionic_steps),
            ("energy, eV", self.energy),
            ("source", self.source),
            ("prototype", self.prototype),
            ("superseded by", self.superseded_by),
        ]
        return Summary(f"{self.id or self.formula}: pair {self.pair_id}", keep_known(facts))


def identify_pair(pair: PairDoc) -> str:
    """Id of a pair: both structures, the functional, the code and what was free; not the path of the relaxation.

    Examples
    --------
    Equal pairs have equal ids, whoever computed them:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import identify_pair
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> one, other = make_pair(before, after, "mine"), make_pair(before, after, "theirs")
    >>> identify_pair(one) == identify_pair(other) == one.pair_id
    True
    """
    return hash_content(
        {
            "initial": identify_structure(pair.initial),
            "relaxed": identify_structure(pair.relaxed),
            "functional": pair.functional,
            "code": pair.code,
            "free": pair.free.model_dump(),
        }
    )


class LeftOut(StrEnum):
    """Why a calculation gave no pair.

    conditions: a field, a charge, images of a path, ... moved the minimum, or the run seeks none; relabelled: it
    gave a pair whose functional is named differently today.
    """

    FAILED = "failed"
    UNCONVERGED = "unconverged"
    NOT_A_RELAXATION = "not_a_relaxation"
    START_UNKNOWN = "start_unknown"
    SITES_DIFFER = "sites_differ"
    FUNCTIONALS_DIFFER = "functionals_differ"
    CONDITIONS = "conditions"
    RELABELLED = "relabelled"
    DISORDERED = "disordered"
    CONSTRAINT = "constraint"
    NOT_PERIODIC = "not_periodic"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"


class BuildRecord(BaseModel):
    """Result of building a pair from one calculation; found by `origin_id`."""

    origin_id: str
    fingerprint: str = Field(description="of the input; the pair is built again when it changes")
    pair_id: str | None = Field(None, description="the pair; None when it was left out")
    reason: LeftOut | None = None
    message: str | None = Field(None, description="the reason in words")
    source: str
    job_uuids: list[str] = Field(default_factory=list)
    last_updated: datetime = Field(default_factory=now)

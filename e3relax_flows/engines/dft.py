"""CP2K, ABINIT, FHI-aims and JDFTx through atomate2's makers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from jobflow import Flow, Maker, OutputReference
from jobflow.core.maker import recursive_call
from pymatgen.core import Structure

from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.codes import check_codes
from e3relax_flows.engines.dft_documents import read_dft_documents
from e3relax_flows.schemas.outcomes import RelaxationResult

# ABINIT ends at once where symmetry operations shift atoms off its grid, as in most predicted structures
ABINIT_DEFAULTS = {"chksymtnons": 0}


@dataclass
class AtomateEngine(Engine):
    """A DFT code with the settings of an atomate2 maker, job or flow; its subclasses name the code.

    Raises
    ------
    EngineError
        When the maker, or one in it, is of another code.
    """

    is_dft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse makers whose documents could not be read, before anything is submitted."""
        check_codes(self.maker, self.code)

    @classmethod
    def from_maker(cls, maker: Maker, name: str | None = None) -> Self:
        """Engine of a maker; its name is the maker's unless one is given."""
        return cls(name=name or maker.name, maker=maker)

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read atomate2's task documents of the code."""
        return read_dft_documents(documents, self.code)


@dataclass
class Cp2kEngine(AtomateEngine):
    """CP2K: its documents count SCF steps, the unit of savings."""

    code: ClassVar[str] = "CP2K"

    def __post_init__(self) -> None:
        """Replace atomate2's makers of relaxations by those that count steps; keep documents of unconverged runs."""
        super().__post_init__()
        maker = _change_nested(self.maker, "run_cp2k_kwargs", {"stop_children_kwargs": {"handle_unsuccessful": False}})
        self.maker = recursive_call(maker, _count_cp2k, nested=True)


@dataclass
class FolderlessEngine(AtomateEngine):
    """A code whose makers do not start from the folder of a calculation before."""

    def make(self, structure: Structure | OutputReference, prev_dir: str | Path | None = None) -> Flow:
        """Build the flow; `prev_dir` is not used."""
        del prev_dir
        return super().make(structure)


@dataclass
class AbinitEngine(FolderlessEngine):
    """ABINIT: relaxations that did not converge keep their document instead of being restarted from their end."""

    code: ClassVar[str] = "ABINIT"

    def __post_init__(self) -> None:
        """Replace atomate2's RelaxMaker by the one that counts steps and is not restarted."""
        super().__post_init__()
        self.maker = recursive_call(self.maker, _keep_abinit, nested=True)


@dataclass
class AimsEngine(AtomateEngine):
    """FHI-aims."""

    code: ClassVar[str] = "FHI-aims"


@dataclass
class JdftxEngine(FolderlessEngine):
    """JDFTx."""

    code: ClassVar[str] = "JDFTx"


def _change_nested(maker: Maker, mark: str, defaults: dict[str, dict[str, Any]]) -> Maker:
    """The maker, in which each job maker with the field `mark` has `defaults` where the user gave no value."""

    def amend(nested: Maker) -> Maker:
        if not hasattr(nested, mark):
            return nested
        changed = copy.deepcopy(nested)
        for name, values in defaults.items():
            setattr(changed, name, {**values, **getattr(changed, name)})
        return changed

    return recursive_call(maker, amend, nested=True)


def _count_cp2k(nested: Maker) -> Maker:
    if not hasattr(nested, "run_cp2k_kwargs"):
        return nested
    from e3relax_flows.engines.cp2k_jobs import COUNTED

    counted = COUNTED.get(cast(Any, type(nested)))
    if counted is None:
        return nested
    return counted(**{field.name: copy.deepcopy(getattr(nested, field.name)) for field in fields(cast(Any, nested))})


def _keep_abinit(nested: Maker) -> Maker:
    if not any(field.name == "run_abinit_kwargs" for field in fields(cast(Any, nested))):
        return nested
    from atomate2.abinit.jobs.core import RelaxMaker

    from e3relax_flows.engines.abinit_jobs import KeptRelaxMaker

    if type(nested) is not RelaxMaker:
        return nested
    kept = KeptRelaxMaker(**{field.name: copy.deepcopy(getattr(nested, field.name)) for field in fields(nested)})
    generator = cast(Any, kept.input_set_generator)
    generator.user_abinit_settings = {**ABINIT_DEFAULTS, **generator.user_abinit_settings}
    return kept

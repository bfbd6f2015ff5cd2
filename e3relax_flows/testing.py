"""Parts for tests and examples: a fast engine, a predictor without a network."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from atomate2.ase.jobs import EmtRelaxMaker
from jobflow import Maker
from pymatgen.core import Structure

from e3relax_flows.engines.ase_documents import read_ase_documents
from e3relax_flows.engines.base import Engine
from e3relax_flows.schemas.outcomes import RelaxationResult
from e3relax_flows.schemas.predictions import Prediction, PredictOptions, Reason, Verdict

EMT_LATTICES = {"Al": 3.995, "Ni": 3.487, "Cu": 3.590, "Pd": 3.879, "Ag": 4.064, "Pt": 3.922, "Au": 4.056}  # fcc, Å


def make_emt_maker() -> EmtRelaxMaker:
    """Relaxation of atoms and cell with effective medium theory."""
    return EmtRelaxMaker(name="EMT relax", relax_kwargs={"fmax": 0.005}, steps=200, relax_cell=True)


@dataclass
class EmtEngine(Engine):
    """ASE's effective medium theory, for Al Ni Cu Pd Ag Pt Au: relaxes in a fraction of a second; not DFT."""

    name: str = "emt"
    maker: Maker = field(default_factory=make_emt_maker)

    is_dft: ClassVar[bool] = False
    code: ClassVar[str] = "EMT"

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read the one document of an ASE relaxation."""
        return read_ase_documents(documents, self.code, "EMT (not DFT)", is_dft=False)


class TablePredictor:
    """Has the face of `Predictor`, and scales each metal to the volume per atom that a table gives its element.

    Parameters
    ----------
    model_id
        Written into the predictions.
    volumes
        Å³ per atom, by element; of an unknown element the volume stays.
    refused
        Elements whose predictions are refused.

    Attributes
    ----------
    device
        As `Predictor` has one.
    n_predicted
        How many structures were asked for so far.
    """

    device = "cpu"

    def __init__(self, model_id: str, volumes: Mapping[str, float], refused: Collection[str] = ()) -> None:
        self.model_id = model_id
        self.volumes = volumes
        self.refused = refused
        self.n_predicted = 0

    def predict(
        self,
        structures: Sequence[Any],
        options: PredictOptions | None = None,  # noqa: ARG002
        ids: Sequence[str | None] | None = None,
    ) -> list[Prediction]:
        """Prediction of every structure; what is none is an error."""
        self.n_predicted += len(structures)
        names = ids if ids is not None else [None] * len(structures)
        return [self._predict_one(structure, name) for structure, name in zip(structures, names, strict=True)]

    def _predict_one(self, initial: Any, name: str | None) -> Prediction:
        if not isinstance(initial, Structure):
            message = f"{type(initial).__name__} is no structure; give a pymatgen Structure"
            reasons = [Reason.NOT_A_STRUCTURE]
            return Prediction(id=name, verdict=Verdict.ERROR, reasons=reasons, message=message, model_id=self.model_id)
        element = initial[0].specie.symbol
        structure = initial.copy()
        structure.scale_lattice(self.volumes.get(element, initial.volume / len(initial)) * len(initial))
        refused = element in self.refused
        return Prediction(
            id=name,
            initial=initial,
            structure=structure,
            verdict=Verdict.REFUSE if refused else Verdict.ACCEPT,
            reasons=[Reason.SCORE] if refused else [],
            message=f"the score of {element} is above its threshold" if refused else None,
            score=0.5 if refused else 0.01,
            volume_ratio=structure.volume / initial.volume,
            displacement=0.0,
            strain=abs(math.log(structure.volume / initial.volume)) / math.sqrt(3),
            n_passes=1,
            model_id=self.model_id,
        )

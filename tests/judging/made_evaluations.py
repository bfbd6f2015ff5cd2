"""Made evaluations of two models on the same holdout."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from e3relax_flows.schemas.models import EvaluatedPair, EvaluationDoc, GateDoc
from e3relax_flows.schemas.predictions import PredictOptions, Verdict

IDENTITY = 0.2  # Å
INCUMBENT = 0.1


@dataclass
class Plot:
    """240 pairs of 2 sources and 4 families in 60 groups, and what a model makes of them."""

    model_id: str
    factor: float = 1.0  # of the incumbent's typical error
    n: int = 240
    seed: int = 0
    factors: dict[str, float] = field(default_factory=dict)  # of single sources or families
    accepted: bool = True
    holdout_id: str = "h-1"

    def evaluate(self) -> EvaluationDoc:
        rng = np.random.default_rng(1)
        noise = np.random.default_rng([self.seed, *self.model_id.encode()])
        rows = []
        for index in range(self.n):
            hardness = float(np.exp(0.5 * rng.normal()))
            source = "gpaw" if index % 6 == 0 else "vasp"
            stratum = ("oxides", "oxides", "halides", "pnictides", "halides", "chalcogenides")[(index // 4) % 6]
            factor = self.factor * self.factors.get(source, 1.0) * self.factors.get(stratum, 1.0)
            error = INCUMBENT * hardness * factor * float(np.exp(0.1 * noise.normal()))
            rows.append(
                EvaluatedPair(
                    pair_id=f"p{index:04d}",
                    source=source,
                    group=f"g{index // 4}",
                    stratum=stratum,
                    displacement=0.5 * error,
                    strain=0.2 * error,
                    volume=0.1 * error,
                    identity_displacement=0.5 * IDENTITY * hardness,
                    identity_strain=0.2 * IDENTITY * hardness,
                    identity_volume=0.01,
                    verdict=Verdict.ACCEPT if self.accepted else Verdict.REFUSE,
                    valid=True,
                )
            )
        return EvaluationDoc(
            evaluation_id=f"e-{self.model_id}-{self.holdout_id}",
            model_id=self.model_id,
            holdout_id=self.holdout_id,
            options=PredictOptions(),
            rows=rows,
        )


def change_rows(doc: EvaluationDoc, indices, **fields) -> EvaluationDoc:
    rows = [row.model_copy(update=fields) if index in indices else row for index, row in enumerate(doc.rows)]
    return doc.model_copy(update={"rows": rows})


def find(gate: GateDoc, name: str):
    (comparison,) = [each for each in gate.comparisons if each.name == name]
    return comparison

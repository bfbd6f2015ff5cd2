"""Screens of any size, made up: structures, predictions and outcomes as large as real ones, for pages of screens."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure

from e3relax_flows import (
    CandidateRow,
    CandidateState,
    OutcomeDoc,
    OutcomeRow,
    PredictionDoc,
    PredictOptions,
    Reason,
    RelaxationResult,
    ScreenDoc,
    StartKind,
    Verdict,
)
from e3relax_flows.core.ids import hash_content
from e3relax_flows.ledger.joining import join_outcome
from e3relax_flows.report.screen_page import ScreenDocuments

METALS = ["Li", "Mg", "Al", "Ca", "Ti", "V", "Mn", "Fe", "Co", "Ni", "Zn", "Sr", "Zr", "Ba", "La"]
ANIONS = ["O", "S", "F", "Cl", "N", "Se"]
MODEL_ID = "30626e97c2b77c72"
THRESHOLD = 0.08


def make_screen(n_candidates: int, n_atoms: int = 16, seed: int = 0) -> tuple[ScreenDoc, ScreenDocuments]:
    """A finished screen: about a sixth refused, a twentieth failed, a tenth controls; `n_atoms` on average."""
    random = np.random.default_rng(seed)
    predictions: dict[str, PredictionDoc] = {}
    outcomes: dict[str, OutcomeDoc] = {}
    rows = []
    for number in range(n_candidates):
        prediction, relaxed = _make_prediction(number, n_atoms, random)
        docs = _relax(prediction, relaxed, number, random)
        predictions[prediction.prediction_id] = prediction
        outcomes |= {doc.outcome_id: doc for doc in docs}
        states = {str(doc.state) for doc in docs}
        rows.append(
            CandidateRow(
                id=str(prediction.id),
                state=CandidateState.FAILED if "failed" in states else CandidateState.SUCCESSFUL,
                formula=relaxed.composition.reduced_formula,
                structure_id=prediction.structure_id,
                prediction_id=prediction.prediction_id,
                model_id=MODEL_ID,
                verdict=prediction.verdict,
                reasons=prediction.reasons,
                score=prediction.score,
                expected_error=prediction.expected_error,
                harm_probability=prediction.harm_probability,
                outcomes=[OutcomeRow.from_outcome(doc) for doc in docs],
            )
        )
    screen = ScreenDoc(
        name=f"made up, {n_candidates} candidates",
        engine="vasp",
        engine_id=hash_content({"engine": "vasp"}),
        model="default",
        on_refuse="initial",
        control=0.1,
        paired_controls=True,
        seed=seed,
        candidates=rows,
    )
    return screen, ScreenDocuments(predictions, outcomes, {MODEL_ID: {None: THRESHOLD}})


def _make_prediction(number: int, n_atoms: int, random: np.random.Generator) -> tuple[PredictionDoc, Structure]:
    """A prediction, and the structure to which the crystal relaxes."""
    n = max(2, int(random.poisson(n_atoms)))
    metal, anion = METALS[random.integers(len(METALS))], ANIONS[random.integers(len(ANIONS))]
    species = [metal] * (n // 2) + [anion] * (n - n // 2)
    lattice = Lattice((12.0 * n) ** (1 / 3) * (np.eye(3) + random.normal(0, 0.05, (3, 3))))
    fractions = random.random((n, 3))
    relaxed = Structure(lattice, species, fractions)
    difficulty = float(random.lognormal(-3.0, 0.7))

    def disturb(scale: float) -> Structure:
        matrix = lattice.matrix @ (np.eye(3) * (1 + scale * random.normal()) + random.normal(0, 0.05 * scale, (3, 3)))
        return Structure(matrix, species, fractions + random.normal(0, 0.3 * scale / n ** (1 / 3), (n, 3)))

    harm = float(np.clip(random.beta(1, 15), 0, 1))
    refused = harm > THRESHOLD * 1.4
    name = f"{metal}{n // 2}{anion}{n - n // 2}-{number:05d}"
    doc = PredictionDoc(
        id=name,
        initial=disturb(3 * difficulty),
        structure=disturb(difficulty),
        verdict=Verdict.REFUSE if refused else Verdict.ACCEPT,
        reasons=[Reason.HARM] if refused else [],
        message=f"probability of harm {harm:.2f} is above {THRESHOLD}" if refused else None,
        score=0.2 * difficulty * float(random.lognormal(0, 0.4)),
        expected_error=difficulty * float(random.lognormal(0, 0.4)),
        error_interval=(difficulty / 4, difficulty * 4),
        harm_probability=harm,
        displacement=0.5 * difficulty,
        strain=difficulty,
        volume_ratio=1 + difficulty,
        n_passes=2,
        model_id=MODEL_ID,
        prediction_id=hash_content({"prediction": number}),
        structure_id=hash_content({"structure": number}),
        options=PredictOptions(),
        job_uuid=f"00000000-0000-4000-8000-{number:012d}",
    )
    return doc, relaxed


def _relax(prediction: PredictionDoc, relaxed: Structure, number: int, random: np.random.Generator) -> list[OutcomeDoc]:
    kinds = [StartKind.PREDICTED if prediction.verdict == Verdict.ACCEPT else StartKind.INITIAL]
    if prediction.verdict == Verdict.ACCEPT and random.random() < 0.1:
        kinds.append(StartKind.CONTROL)
    docs = []
    for kind in kinds:
        start = prediction.structure if kind is StartKind.PREDICTED else prediction.initial
        if random.random() < 0.05 or start is None:
            docs.append(join_outcome(prediction, kind, "vasp", "e", None, "the run stopped: out of memory"))
            continue
        steps = int(random.poisson(9 if kind is StartKind.PREDICTED else 16)) + 1
        result = RelaxationResult(
            initial=start,
            relaxed=relaxed,
            energy=float(-5.0 * len(relaxed) + random.normal()),
            n_ionic_steps=steps,
            n_electronic_steps=12 * steps,
            converged=True,
            wall_time_s=60.0 * steps,
            dir_name=f"node17:/scratch/screens/2026/job_{number:06d}_{kind}",
            code="VASP",
            functional="PBE",
            is_dft=True,
        )
        docs.append(
            join_outcome(prediction, kind, "vasp", "e", result, job_uuids=[f"{number:08d}-aaaa-4bbb-8ccc-{steps:012d}"])
        )
    return docs

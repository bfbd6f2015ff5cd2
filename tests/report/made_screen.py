"""A screen with one candidate of every kind, and its documents."""

from __future__ import annotations

from pymatgen.core import Lattice, Structure

from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, RelaxationResult, StartKind, StructureErrors
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, OutcomeRow, ScreenDoc

EVIL = "<script>alert('x')</script> & \"co\""


def rock_salt(a: float) -> Structure:
    """Primitive cell of cube edge `a`, of volume a³/4 with 2 atoms."""
    half = a / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), ["Mg", "O"], [[0] * 3, [0.5] * 3])


def predict(name: str, verdict: Verdict, a: float | None = 4.3) -> PredictionDoc:
    return PredictionDoc(
        id=name,
        initial=rock_salt(4.0),
        structure=rock_salt(a) if a else None,
        verdict=verdict,
        model_id="m" * 16,
        prediction_id=f"p-{name}",
        structure_id=f"s-{name}",
        options=PredictOptions(),
    )


def relax(name: str, kind: StartKind, steps: int, scf: int | None = None, a: float = 4.2) -> OutcomeDoc:
    return OutcomeDoc(
        outcome_id=f"o-{name}-{kind}",
        prediction_id=f"p-{name}",
        structure_id=f"s-{name}",
        model_id="m" * 16,
        engine="chgnet",
        engine_id="e",
        start_kind=kind,
        state=OutcomeState.SUCCESSFUL,
        result=RelaxationResult(
            initial=rock_salt(4.3),
            relaxed=rock_salt(a),
            n_ionic_steps=steps,
            n_electronic_steps=scf,
            converged=True,
            code="CHGNet",
            is_dft=False,
        ),
        initial_errors=StructureErrors(displacement=0.2, strain=0.1, volume=abs(4.0**3 / a**3 - 1)),
        prediction_errors=StructureErrors(displacement=0.05, strain=0.01, volume=abs(4.3**3 / a**3 - 1)),
    )


def list_candidate(
    name: str,
    state: CandidateState,
    verdict: Verdict,
    outcomes: tuple[OutcomeDoc, ...] = (),
    **more,
) -> CandidateRow:
    return CandidateRow(
        id=name,
        state=state,
        verdict=verdict,
        formula="MgO",
        prediction_id=f"p-{name}",
        model_id="m" * 16,
        outcomes=[OutcomeRow.from_outcome(doc) for doc in outcomes],
        **more,
    )


def make_documents() -> tuple[ScreenDoc, list[PredictionDoc], list[OutcomeDoc]]:
    """The screen, its predictions, its outcomes."""
    predictions = [
        predict("pair", Verdict.ACCEPT),
        predict("single", Verdict.ACCEPT),
        predict("refused", Verdict.REFUSE, 9.0),
        predict("twin", Verdict.ACCEPT),
        predict(EVIL, Verdict.ERROR, None),
    ]
    outcomes = {
        "pair": (relax("pair", StartKind.CONTROL, 17), relax("pair", StartKind.PREDICTED, 5)),
        "single": (relax("single", StartKind.PREDICTED, 7, a=4.4),),
        "refused": (relax("refused", StartKind.INITIAL, 30),),
    }
    state = CandidateState.SUCCESSFUL
    candidates = [
        list_candidate("pair", state, Verdict.ACCEPT, outcomes["pair"]),
        list_candidate("single", state, Verdict.ACCEPT, outcomes["single"]),
        list_candidate("refused", state, Verdict.REFUSE, outcomes["refused"], reasons=[Reason.VOLUME]),
        list_candidate("twin", CandidateState.DUPLICATE, Verdict.ACCEPT, duplicate_of="pair"),
        list_candidate(
            EVIL, CandidateState.ERROR, Verdict.ERROR, reasons=[Reason.DISORDERED], message=f"site 3: {EVIL}"
        ),
    ]
    screen = ScreenDoc(
        name=f"screen {EVIL}",
        engine="chgnet",
        engine_id="e",
        model="default",
        on_refuse="initial",
        control=0.5,
        paired_controls=True,
        seed=1,
        candidates=candidates,
    )
    return screen, predictions, [doc for docs in outcomes.values() for doc in docs]

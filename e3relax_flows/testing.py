"""Parts for tests and examples: checks that every engine passes, a fast engine, a predictor without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from atomate2.ase.jobs import EmtRelaxMaker
from jobflow import Flow, JobStore, Maker, OutputReference, run_locally
from maggma.stores import MemoryStore
from monty.json import jsanitize
from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.ids import identify_structure
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines.ase_documents import read_ase_documents
from e3relax_flows.engines.base import Engine, iterate_jobs
from e3relax_flows.engines.registry import EngineEntry, register_engine
from e3relax_flows.ledger.joining import align_sites, join_outcome
from e3relax_flows.pairs.dataset_store import open_dataset_stores, save_holdout
from e3relax_flows.pairs.datasets import freeze_holdout
from e3relax_flows.pairs.making import Origin, Relaxation
from e3relax_flows.pairs.making import make_pair as pair_relaxation
from e3relax_flows.schemas.campaigns import CampaignConfig
from e3relax_flows.schemas.datasets import PairFilter
from e3relax_flows.schemas.outcomes import OutcomeDoc, RelaxationResult, StartKind
from e3relax_flows.schemas.pairs import PairDoc
from e3relax_flows.schemas.predictions import (
    Prediction,
    PredictionDoc,
    PredictOptions,
    Reason,
    Verdict,
    identify_prediction,
)
from e3relax_flows.stores.decoding import decode_as

__all__ = [
    "EMT_ENTRY", "EMT_LATTICES", "EmtEngine", "TablePredictor", "check_engine", "check_relaxation", "make_emt_maker",
    "make_outcome", "make_pair", "make_pairs", "prepare_campaign",
]  # fmt: skip

EMT_LATTICES = {"Al": 3.995, "Ni": 3.487, "Cu": 3.590, "Pd": 3.879, "Ag": 4.064, "Pt": 3.922, "Au": 4.056}  # fcc, Å


def make_emt_maker() -> EmtRelaxMaker:
    """Relaxation of atoms and cell with effective medium theory.

    Examples
    --------
    >>> from e3relax_flows.testing import make_emt_maker
    >>> maker = make_emt_maker()
    >>> maker.name, maker.relax_cell
    ('EMT relax', True)
    """
    return EmtRelaxMaker(name="EMT relax", relax_kwargs={"fmax": 0.005}, steps=200, relax_cell=True)


@dataclass
class EmtEngine(Engine):
    """ASE's effective medium theory, for Al Ni Cu Pd Ag Pt Au: relaxes in a fraction of a second; not DFT.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import EmtEngine, check_relaxation
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> result = check_relaxation(EmtEngine(), copper, folder=Path.cwd())
    >>> round(result.relaxed.lattice.a, 2), result.is_dft
    (2.54, False)
    """

    name: str = "emt"
    maker: Maker = field(default_factory=make_emt_maker)

    is_dft: ClassVar[bool] = False
    code: ClassVar[str] = "EMT"

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read the one document of an ASE relaxation."""
        return read_ase_documents(documents, self.code, "EMT (not DFT)", is_dft=False)


EMT_ENTRY = EngineEntry("EMT; not DFT", "e3relax_flows.testing:EmtEngine", is_dft=False)


def make_pairs(metals: Sequence[str] = tuple(EMT_LATTICES)) -> list[PairDoc]:
    """A pair for each fcc metal, from a primitive cell 5 % too long to EMT's lattice; nothing is computed.

    Examples
    --------
    >>> from e3relax_flows.testing import make_pairs
    >>> [pair] = make_pairs(["Cu"])
    >>> pair.formula, round(pair.initial.volume / pair.relaxed.volume, 2)
    ('Cu', 1.16)
    """
    pairs = []
    for metal in metals:
        half = EMT_LATTICES[metal] / 2
        relaxed = Structure([[0, half, half], [half, 0, half], [half, half, 0]], [metal], [[0, 0, 0]])
        initial = relaxed.copy()
        initial.scale_lattice(1.05**3 * relaxed.volume)
        pairs.append(make_pair(initial, relaxed, "example"))
    return pairs


def prepare_campaign(settings: E3RelaxSettings) -> CampaignConfig:
    """Configuration of a campaign of one label on a pool of copper and silver, with its files, engine and holdout.

    Two pairs are held out, and no others are stored: nothing can be trained, so that the campaign ends in seconds.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> config = prepare_campaign(settings)
    >>> config.engine, config.retraining.holdout
    ('emt', 'metals')
    """
    pool = settings.DATA_DIR / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    for pair in make_pairs(["Cu", "Ag"]):
        pair.initial.to(str(pool / f"{pair.formula}.cif"))
    register_engine("emt", EMT_ENTRY, overwrite=True)
    wanted = PairFilter(dft_only=False)
    with open_dataset_stores(settings) as stores:
        held = freeze_holdout(make_pairs(["Ni", "Pd"]), "metals", "chemical_system", ["Ni", "Pd"], wanted, min_pairs=1)
        save_holdout(stores, held)
    gate = {"min_stratum": 2, "n_resamples": 500}
    retraining = {"holdout": held.name, "dataset": {"filter": wanted.model_dump()}, "gate": gate}
    return CampaignConfig.model_validate(
        {"engine": "emt", "inputs": [str(pool)], "labels": 1, "retraining": retraining, "stop": {"labels": 1}}
    )


def check_engine(engine: Engine, structure: Structure) -> None:
    """Check what every engine must do before anything runs; for the tests of engines of any package.

    Its id is of its settings alone and survives storage, its flows can be stored, and it is not changed by making them.

    Raises
    ------
    AssertionError
        With what does not hold.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import EmtEngine, check_engine
    >>> check_engine(EmtEngine(), Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]]))
    """
    identity, content = engine.engine_id, jsanitize(engine.as_dict(), strict=True)
    again = decode_as(json.loads(json.dumps(content)), type(engine), f"engine {engine.name!r}")
    _demand(again.engine_id == identity, f"engine_id changes in storage: {identity} becomes {again.engine_id}")
    again.name = "another name"
    _demand(again.engine_id == identity, "engine_id depends on the name")
    _demand(bool(engine.code) and isinstance(engine.is_dft, bool), "code and is_dft must be class variables")
    flow = engine.make(structure)
    _demand(isinstance(flow, Flow), f"make gives {type(flow).__name__}, not a Flow")
    outputs = engine.collect_outputs(flow)
    known = {job.uuid for job in iterate_jobs(flow)}
    _demand(bool(outputs), "collect_outputs names no document")
    _demand({reference.uuid for reference in outputs} <= known, "collect_outputs names jobs that are not in the flow")
    json.dumps(jsanitize(flow, strict=True, enum_values=True))
    later = engine.make(OutputReference("00000000-0000-0000-0000-000000000000"))
    _demand(len(engine.collect_outputs(later)) == len(outputs), "make differs for a structure that is not known yet")
    _demand(engine.engine_id == identity, "make changes the engine")
    try:
        engine.read([None] * len(outputs))
    except EngineError:
        return
    raise AssertionError("read gives a result where no job left a document; it must raise EngineError")


def check_relaxation(
    engine: Engine, structure: Structure, documents: Sequence[Any] | None = None, folder: Path | None = None
) -> RelaxationResult:
    """Check that a converged relaxation is read as what it was, from objects and from what a store returns.

    Parameters
    ----------
    engine
        To be checked.
    structure
        From which it relaxes, and converges.
    documents
        Recorded documents of such a relaxation, where the code is not installed; None: it is run, in `folder`.
    folder
        Of the jobs; None: the working directory.

    Raises
    ------
    AssertionError
        With what does not hold.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import EmtEngine, check_relaxation
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> check_relaxation(EmtEngine(), copper).converged
    True
    """
    found = list(documents) if documents is not None else _run_engine(engine, structure, folder or Path.cwd())
    result = engine.read(found)
    stored = [None if each is None else json.loads(json.dumps(jsanitize(each, strict=True))) for each in found]
    again = engine.read(stored)
    numbers = {"initial", "relaxed"}
    _demand(
        again.model_dump(exclude=numbers) == result.model_dump(exclude=numbers),
        "read gives another result for a document that comes from a store",
    )
    align_sites(structure, result.initial)  # raises where the relaxation began elsewhere
    _demand(result.initial.composition == result.relaxed.composition, "atoms are lost or exchanged by the relaxation")
    numbers_of = [[site.specie.Z for site in each] for each in (result.initial, result.relaxed)]
    _demand(numbers_of[0] == numbers_of[1], "initial and relaxed are not in the same order of sites")
    _demand(result.converged, "the relaxation did not converge; give a structure that does")
    _demand(result.energy is not None and math.isfinite(result.energy), f"the energy is {result.energy} eV")
    _demand(bool(result.functional), "there is no functional; results that differ in it are never mixed")
    _demand(result.n_ionic_steps is None or result.n_ionic_steps >= 1, f"{result.n_ionic_steps} ionic steps")
    _demand(result.is_dft == engine.is_dft, f"is_dft is {result.is_dft} in the result, {engine.is_dft} of the engine")
    _demand(bool(result.code), "the result has no code")
    if len(found) > 1:
        partial = engine.read([*found[:-1], None])
        _demand(not partial.converged, "a flow whose last document is missing counts as converged")
    return result


def _run_engine(engine: Engine, structure: Structure, folder: Path) -> list[Any]:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    flow = engine.make(structure)
    run_locally(flow, store=store, root_dir=folder, create_folders=True, raise_immediately=True, log=False)
    left = {document["uuid"] for document in store.query({}, ["uuid"])}
    return [ref.resolve(store) if ref.uuid in left else None for ref in engine.collect_outputs(flow)]


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


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
    unknown
        Elements that it cannot predict: an error of the input.

    Attributes
    ----------
    device
        As `Predictor` has one.
    n_predicted
        How many structures were asked for so far.

    Examples
    --------
    A predictor without a network, for tests of flows:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import TablePredictor
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> prediction = TablePredictor("table", {"Cu": 11.6}).predict([copper])[0]
    >>> round(prediction.structure.volume, 1), str(prediction.verdict)
    (11.6, 'accept')
    """

    device = "cpu"

    def __init__(
        self, model_id: str, volumes: Mapping[str, float], refused: Collection[str] = (), unknown: Collection[str] = ()
    ) -> None:
        self.model_id = model_id
        self.volumes = volumes
        self.refused = refused
        self.unknown = unknown
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
            return self._fail(
                name, Reason.NOT_A_STRUCTURE, f"{type(initial).__name__} is not a structure; give a pymatgen Structure"
            )
        element = initial[0].specie.symbol
        if element in self.unknown:
            return self._fail(name, Reason.UNKNOWN_ELEMENT, f"{element} is not in the table")
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

    def _fail(self, name: str | None, reason: Reason, message: str) -> Prediction:
        return Prediction(id=name, verdict=Verdict.ERROR, reasons=[reason], message=message, model_id=self.model_id)


def make_outcome(
    initial: Structure, relaxed: Structure, start_kind: StartKind = StartKind.PREDICTED, n_ionic_steps: int = 4
) -> tuple[PredictionDoc, OutcomeDoc]:
    """An accepted prediction that is the relaxed structure, of corresponding sites, and an outcome; nothing is run.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import StartKind
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> prediction, outcome = make_outcome(initial, relaxed, StartKind.CONTROL, n_ionic_steps=8)
    >>> outcome.prediction_id == prediction.prediction_id, outcome.result.n_ionic_steps
    (True, 8)
    """
    structure_id, options = identify_structure(initial), PredictOptions()
    prediction = PredictionDoc(
        prediction_id=identify_prediction(structure_id, "made", options),
        structure_id=structure_id,
        id=initial.composition.reduced_formula,
        initial=initial,
        structure=relaxed,
        verdict=Verdict.ACCEPT,
        model_id="made",
        options=options,
    )
    start = relaxed if start_kind.is_from_prediction else initial
    result = _make_result(start, relaxed, n_ionic_steps)
    return prediction, join_outcome(prediction, start_kind, "emt", EmtEngine().engine_id, result)


def make_pair(initial: Structure, relaxed: Structure, source: str = "screen") -> PairDoc:
    """The pair of a converged relaxation that is not DFT, whose sites correspond; nothing is run.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> make_pair(before, after).chemical_system
    'Cu'
    """
    origin = Origin(identify_structure(initial), source)
    return pair_relaxation(Relaxation(_make_result(initial, relaxed, 4), initial, origin))


def _make_result(start: Structure, relaxed: Structure, n_ionic_steps: int) -> RelaxationResult:
    labels = {"code": "EMT", "functional": "EMT (not DFT)", "is_dft": False, "converged": True, "energy": 0.0}
    return RelaxationResult(initial=start, relaxed=relaxed, n_ionic_steps=n_ionic_steps, **labels)

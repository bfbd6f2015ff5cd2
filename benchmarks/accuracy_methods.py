"""The rows of `accuracy.py`: identity, a volume predictor, networks, and relaxations with CHGNet, each timed."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from accuracy_cases import Case, Floats, JsonlCache, rotate_structure
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from pymatgen.core import Structure
from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor
from pymatgen.io.ase import AseAtomsAdaptor

from e3relax_flows import Prediction, PredictOptions, Predictor, Verdict, get_engine, hash_content, measure_log_strain

# rows without a potential, quick enough for all pairs
NETWORK_ROWS = (
    "identity",
    "volume",
    "released",
    "released-rotated",
    "released-wrapped",
    "ours-1",
    "ours",
    "ours-guarded",
)
MAX_STRAIN = 1.0  # eigenvalue of the logarithmic strain; a cell that is strained further has run away


class Seconds(NamedTuple):
    """Time from Structure to Structure; CPU time does not depend on what else the machine does."""

    wall: float = 0.0
    cpu: float = 0.0

    def add(self, other: Seconds) -> Seconds:
        """One after the other."""
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)


NO_TIME = Seconds()


def start_clock() -> Callable[[], Seconds]:
    """A function that gives the time since now."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: Seconds(time.perf_counter() - wall, time.process_time() - cpu)


class Output(NamedTuple):
    """What a method made of one structure; where it failed, the structure it was given."""

    lattice: Floats  # [3, 3] Å
    fractions: Floats  # [n_atoms, 3]
    status: str = "ok"  # ok; refuse, error of a prediction; unconverged, stopped, failed of a relaxation
    spent: Seconds = NO_TIME

    @classmethod
    def of(cls, structure: Structure, status: str = "ok", spent: Seconds = NO_TIME) -> Output:
        """Output of a structure."""
        return cls(np.array(structure.lattice.matrix), np.array(structure.frac_coords), status, spent)

    def build(self, case: Case) -> Structure:
        """The structure that was made for a case."""
        return Structure(self.lattice, case.start.atomic_numbers, self.fractions)


@dataclass(frozen=True)
class Relaxation:
    """How CHGNet relaxes: FIRE on positions and cell (ASE's FrechetCellFilter, as in the engine), right-handed axes."""

    fmax: float = 0.05  # eV/Å
    steps: int = 300
    cpu_limit_s: float = 60.0  # CPU seconds of one structure; then the last geometry is taken
    optimizer: str = "FIRE"
    potential: str = f"CHGNet {version('chgnet')}"


class PotentialRelaxer:
    """CHGNet relaxations, each done once: results are kept in a cache by pair, start and settings."""

    def __init__(self, cache: JsonlCache) -> None:
        self.cache = cache
        self._calculator: Calculator | None = None

    @property
    def calculator(self) -> Calculator:
        """The engine's calculator, on the CPU, loaded when first needed."""
        if self._calculator is None:
            maker: Any = get_engine("chgnet", device="cpu").maker
            self._calculator = maker.calculator
        return self._calculator

    def relax_cached(self, case: Case, start: Structure, label: str, settings: Relaxation) -> Output:
        """Relax `start`, called `label`, of a case, unless it was done before."""
        key = hash_content({"id": case.id, "start": label, **asdict(settings)})
        row = self.cache.get(key)
        if row is None:
            record = {"id": case.id, "source": case.source, "start": label, "settings": asdict(settings)}
            row = self.cache.put(key, record | relax_structure(start, self.calculator, settings))
        return read_relaxation(row)


def read_relaxation(row: dict[str, Any]) -> Output:
    """Output of a row of the cache."""
    return Output(np.array(row["lattice"]), np.array(row["frac"]), row["status"], Seconds(row["wall_s"], row["cpu_s"]))


def relax_structure(start: Structure, calculator: Calculator, settings: Relaxation) -> dict[str, Any]:
    """Relax positions and cell; the start itself where not even its forces could be computed.

    Returns
    -------
    Status (ok: converged; unconverged: steps used up; stopped: time limit or run away; failed), lattice, frac, the
    number of steps, energy in eV, wall and CPU seconds from Structure to Structure.
    """
    clock = start_clock()
    atoms = AseAtomsAdaptor.get_atoms(start, msonable=False)
    atoms.calc = calculator
    n_steps, energy = 0, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = LimitedFire(FrechetCellFilter(atoms), logfile=None)
        run.cpu_limit_s = settings.cpu_limit_s
        try:
            converged = run.run(fmax=settings.fmax, steps=settings.steps)
            n_steps = run.nsteps
            status = "ok" if converged else "unconverged" if n_steps >= settings.steps else "stopped"
            relaxed = Structure(atoms.cell.array, start.species, atoms.get_scaled_positions(wrap=False))
            energy = float(atoms.get_potential_energy())
        except Exception:  # the boundary of one relaxation
            status, relaxed = "failed", start
    spent = clock()
    return {
        "status": status,
        "n_steps": n_steps,
        "energy": energy,
        "wall_s": spent.wall,
        "cpu_s": spent.cpu,
        "numbers": list(start.atomic_numbers),
        "lattice": relaxed.lattice.matrix.tolist(),
        "frac": relaxed.frac_coords.tolist(),
    }


class StoppedError(Exception):
    """A relaxation that was ended before it converged."""


class LimitedFire(FIRE):
    """FIRE that ends with the last geometry whose forces are known: out of time, run away, or the potential failed."""

    cpu_limit_s = float("inf")

    def run(self, *args: Any, **kwargs: Any) -> bool:
        """Relax; False where it was ended."""
        filtered: Any = self.atoms
        self._atoms = filtered.atoms
        self._first, self._safe = self._atoms.cell.array.copy(), None
        self._began = time.process_time()
        try:
            return bool(super().run(*args, **kwargs))
        except Exception:  # the boundary of one relaxation: what was reached is kept
            if self._safe is None:
                raise
        self._atoms.set_cell(self._safe.cell)
        self._atoms.set_positions(self._safe.positions)
        return False

    def step(self, *args: Any, **kwargs: Any) -> None:
        """One step, unless a limit says no."""
        self._safe = self._atoms.copy()
        if self.nsteps and time.process_time() - self._began > self.cpu_limit_s:
            raise StoppedError(f"limit of {self.cpu_limit_s:g} CPU seconds after {self.nsteps} steps")
        super().step(*args, **kwargs)
        cell = self._atoms.cell.array
        if not (np.isfinite(self._atoms.positions).all() and np.isfinite(cell).all()):
            raise StoppedError("the step is not finite")
        if np.linalg.det(cell) * np.linalg.det(self._first) <= 0:
            raise StoppedError("the cell was turned inside out")
        if np.abs(np.linalg.eigvalsh(measure_log_strain(self._first, cell))).max() > MAX_STRAIN:
            raise StoppedError("the cell has run away")


def predict_volume(start: Structure) -> Output:
    """Scale to the volume of pymatgen's data-mined lattice scheme, with its default limits of 0.5 and 1.5."""
    clock = start_clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on elements without parameters it takes atomic radii
        try:
            made = DLSVolumePredictor().get_predicted_structure(start)
            status = "ok" if np.isfinite(made.volume) else "failed"
        except Exception:  # the boundary of one structure: no bonds, no radii
            made, status = start, "failed"
    return Output.of(made if status == "ok" else start, status, clock())


def read_prediction(prediction: Prediction, start: Structure, spent: Seconds, serve: bool = False) -> Output:
    """Output of a prediction: the predicted structure, or if `serve` what the guards leave of it."""
    structure = prediction.structure
    if structure is None or (serve and prediction.verdict != Verdict.ACCEPT):
        structure = start
    status = "ok" if prediction.verdict == Verdict.ACCEPT else str(prediction.verdict)
    return Output.of(structure, status, spent)


class Methods:
    """Every row as a function from cases to outputs; predictions are made once and shared between rows."""

    def __init__(self, ours: Predictor, released: Predictor | None, relaxer: PotentialRelaxer, seed: int) -> None:
        self.ours, self.released, self.relaxer, self.seed = ours, released, relaxer, seed
        self._known: dict[str, tuple[list[Prediction], Seconds]] = {}

    def list_rows(self) -> dict[str, Callable[[Sequence[Case]], list[Output]]]:
        """Functions by the name of their row, in the order of the table."""
        bare = PredictOptions(passes=1, symmetry="free")
        rows: dict[str, Callable[[Sequence[Case]], list[Output]]] = {
            "identity": lambda cases: [Output.of(case.start) for case in cases],
            "volume": lambda cases: [predict_volume(case.start) for case in cases],
        }
        if self.released is not None:
            released = self.released
            rows |= {
                "released": lambda cases: self._predict(released, cases, bare),
                "released-rotated": lambda cases: self._predict(released, cases, bare, rotated=True),
                "released-wrapped": lambda cases: self._predict(released, cases, PredictOptions()),
            }
        return rows | {
            "ours-1": lambda cases: self._predict(self.ours, cases, PredictOptions(passes=1)),
            "ours": lambda cases: self._predict(self.ours, cases, PredictOptions()),
            "ours-guarded": lambda cases: self._predict(self.ours, cases, PredictOptions(), serve=True),
            "ours-chgnet": self._predict_and_relax,
            "chgnet": lambda cases: [
                self.relaxer.relax_cached(case, case.start, "initial", Relaxation()) for case in cases
            ],
        }

    def _predict(
        self,
        predictor: Predictor,
        cases: Sequence[Case],
        options: PredictOptions,
        rotated: bool = False,
        serve: bool = False,
    ) -> list[Output]:
        starts = [rotate_structure(case.start, self.seed, case.id) if rotated else case.start for case in cases]
        key = json.dumps([predictor.model_id, options.model_dump(mode="json"), rotated, [case.id for case in cases]])
        if key not in self._known:
            clock = start_clock()
            predictions = predictor.predict(starts, options, ids=[case.id for case in cases])
            spent = clock()
            self._known[key] = predictions, Seconds(spent.wall / len(cases), spent.cpu / len(cases))
        predictions, each_spent = self._known[key]
        return [
            read_prediction(each, start, each_spent, serve) for each, start in zip(predictions, starts, strict=True)
        ]

    def _predict_and_relax(self, cases: Sequence[Case]) -> list[Output]:
        label = f"predicted by {self.ours.model_id}, {hash_content(PredictOptions().model_dump(mode='json'))}"
        outputs = []
        for case, predicted in zip(cases, self._predict(self.ours, cases, PredictOptions()), strict=True):
            start = predicted.build(case)
            made = self.relaxer.relax_cached(case, start, label, Relaxation(steps=20))
            outputs.append(made._replace(spent=made.spent.add(predicted.spent)))
        return outputs

    def time_alone(self, name: str, cases: Sequence[Case]) -> list[Seconds]:
        """Time of each case, given one after another, nothing taken from a cache."""
        fresh = Methods(self.ours, self.released, _UncachedRelaxer(self.relaxer), self.seed)
        run = fresh.list_rows()[name]
        return [run([case])[0].spent for case in cases]

    def time_list(self, name: str, cases: Sequence[Case]) -> Seconds:
        """Time per structure when all cases are given at once; of rows that use a network only."""
        fresh = Methods(self.ours, self.released, self.relaxer, self.seed)
        return mean_seconds([output.spent for output in fresh.list_rows()[name](cases)])


def mean_seconds(spent: Sequence[Seconds]) -> Seconds:
    """Mean of wall and of CPU seconds."""
    wall, cpu = np.mean(spent, axis=0)
    return Seconds(float(wall), float(cpu))


class _UncachedRelaxer(PotentialRelaxer):
    """Relaxes anew each time, with the calculator of another relaxer."""

    def __init__(self, other: PotentialRelaxer) -> None:
        super().__init__(other.cache)
        self._calculator = other.calculator

    def relax_cached(self, case: Case, start: Structure, label: str, settings: Relaxation) -> Output:  # noqa: ARG002
        return read_relaxation(relax_structure(start, self.calculator, settings))

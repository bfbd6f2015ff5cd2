"""Relaxations of a chunk of structures together by TorchSim, with the documents of relaxations one after the other.

Imports torch_sim, so it is imported only when it is used.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from atomate2.ase.schemas import AseResult
from atomate2.ase.utils import convert_stress_from_voigt_to_symm
from atomate2.torchsim.core import pick_model
from atomate2.torchsim.schema import TorchSimModelType
from emmet.core.trajectory import AtomTrajectory
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from e3relax_flows.core.geometry import SWAP
from e3relax_flows.engines.guards import check_neighbors, turn_right_handed
from e3relax_flows.engines.mlip_jobs import PotentialRelaxMaker
from e3relax_flows.engines.torchsim_batches import BatchRules, Track, relax_together
from e3relax_flows.graphs.devices import resolve_device
from e3relax_flows.schemas.outcomes import Batch

MODELS = {"SevenNet": TorchSimModelType.SEVENNET}
VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])


@dataclass
class TorchSimRelaxMaker(PotentialRelaxMaker):
    """PotentialRelaxMaker that relaxes many structures at once; its documents have the same form.

    A structure that cannot be relaxed with others is tried alone. `time_limit_s` times the number of structures is the
    limit of all of them. A job of one structure is a batch of one.
    """

    name: str = "TorchSim relax"

    batch: ClassVar[Batch] = "torchsim"

    def relax_many(self, structures: Sequence[Structure]) -> Iterator[tuple[int, Any]]:
        """Relax structures; index and document, or the exception that ended it, each as it ends."""
        for index, track in self._relax_apart(structures):
            try:
                if isinstance(track, Exception):
                    raise track
                self._ready: AseResult | None = self._convert(structures[index], track)
                document = type(self).make.original(self, structures[index])  # type: ignore[attr-defined]
            except Exception as error:  # the boundary between structures
                yield index, error
            else:
                yield index, document
            finally:
                self._ready = None

    def run_ase(self, mol_or_struct: Any, prev_dir: str | Path | None = None) -> AseResult:  # noqa: ARG002
        """Input of atomate2's document: a relaxation of a batch, or one of its own."""
        ready: AseResult | None = getattr(self, "_ready", None)
        if ready is not None:
            return ready
        _, track = next(iter(self._relax_apart([mol_or_struct])))
        if isinstance(track, Exception):
            raise track
        return self._convert(mol_or_struct, track)

    def find_device(self) -> str:
        """The device."""
        return str(resolve_device(self.device))

    def _relax_apart(self, structures: Sequence[Structure]) -> Iterator[tuple[int, Track | Exception]]:
        """Tracks of all structures, relaxed together; if one of them ends the batch with an error, of each alone."""
        left: dict[int, Atoms] = {}
        for index, structure in enumerate(structures):
            try:
                left[index] = self._prepare(structure)
            except Exception as error:  # the boundary between structures
                yield index, error
        groups = [list(left)] if left else []
        while groups:
            group = groups.pop(0)
            try:
                for number, track in relax_together(self._load(), [left[index] for index in group], self._rules()):
                    yield group[number], track
                    left.pop(group[number])
            except Exception as error:  # of one of them, but not known of which
                rest = [index for index in group if index in left]
                if len(group) == 1:
                    yield group[0], error
                else:
                    groups = [[index] for index in rest]

    def _prepare(self, structure: Structure) -> Atoms:
        atoms = turn_right_handed(AseAtomsAdaptor.get_atoms(structure, msonable=False))
        check_neighbors(atoms, float(self._load().cutoff))
        return atoms

    def _rules(self) -> BatchRules:
        return BatchRules(
            optimizer=self.optimizer_kwargs.get("optimizer", "LBFGS"),
            fmax=self.relax_kwargs.get("fmax", 0.02),
            steps=self.steps,
            time_limit_s=self.time_limit_s,
            max_strain=self.max_strain,
            relax_cell=self.relax_cell,
            cell=self.relax_kwargs.get("filter_kwargs") or {},
            symprec=self.symprec if self.fix_symmetry else None,
        )

    def _load(self) -> Any:
        """TorchSim's model, loaded once."""
        if getattr(self, "_model", None) is None:
            potential = self._find_checked()
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="No tensor product accelerator")  # SevenNet's advice
                self._model = pick_model(
                    MODELS[potential.info.potential],
                    str(potential.weights),
                    modal=potential.info.modal,
                    device=self.find_device(),
                )
        return self._model

    def _convert(self, structure: Structure, track: Track) -> AseResult:
        """The result in the form of atomate2's relaxation by ASE; as there, the last geometry is repeated."""
        if track.converged:
            last = Atoms(structure.atomic_numbers, track.positions[-1], cell=track.cells[-1], pbc=True)
            check_neighbors(last, float(self._load().cutoff))
        is_left = np.linalg.det(structure.lattice.matrix) < 0
        cells = [cell[SWAP] if is_left else cell for cell in track.cells]
        frames = [*range(len(cells)), len(cells) - 1]
        trajectory = AtomTrajectory(
            elements=structure.atomic_numbers,
            cart_coords=[track.positions[frame] for frame in frames],
            num_ionic_steps=len(frames),
            lattice=[cells[frame] for frame in frames],
            energy=[track.energies[frame] for frame in frames],
            forces=[track.forces[frame] for frame in frames],
            stress=[convert_stress_from_voigt_to_symm(track.stresses[frame][VOIGT]) for frame in frames],
        )
        relaxed = AseAtomsAdaptor.get_structure(
            Atoms(structure.atomic_numbers, track.positions[-1], cell=cells[-1], pbc=True)
        )
        return AseResult(
            final_mol_or_struct=relaxed,
            final_energy=track.energies[-1],
            trajectory=trajectory,
            converged=track.converged,
            is_force_converged=bool(np.linalg.norm(track.forces[-1], axis=1).max() <= self._rules().fmax),
            energy_downhill=track.energies[-1] <= track.energies[0],
            dir_name=str(Path.cwd()),
            elapsed_time=track.seconds,
        )

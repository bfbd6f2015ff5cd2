"""Pairs of trajectories whose atoms were held: marked where selective dynamics says the same, else left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ase")

from ase import Atoms, constraints
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from e3relax_flows.pairs.files import FilePair, Stated, read_pair_file
from e3relax_flows.pairs.making import Origin, Relaxation, make_pair
from e3relax_flows.schemas.pairs import Freedom, LeftOut

LEANING = np.array([[4.2, 0, 0], [0.5, 4.2, 0], [0.3, 0.4, 4.2]])


def read(path: Path, held_in_frame: int | None = None, *held: object) -> FilePair:
    """A relaxation of three frames, of which one or all are under constraints."""
    frames = []
    for number in range(3):
        positions = [[0, 0, 0], [0.5 + 0.01 * number, 0.5, 0.5]]
        frame = Atoms("MgO", scaled_positions=positions, cell=LEANING * (1 - 0.01 * number), pbc=True)
        if held and held_in_frame in (number, None):
            frame.set_constraint(list(held))
        frame.calc = SinglePointCalculator(frame, energy=-10.0 - number, forces=np.zeros((2, 3)), stress=np.zeros(6))
        frames.append(frame)
    write(path, frames)
    (item,) = read_pair_file(path, Stated(functional="PBE"))
    return item


def find_freedom(item: FilePair) -> Freedom:
    return make_pair(Relaxation(item.result, item.result.initial, Origin(item.location, "import"))).free


def test_a_relaxation_of_all_atoms_is_free(tmp_path):
    assert find_freedom(read(tmp_path / "a.traj")).is_full
    assert find_freedom(read(tmp_path / "b.traj", None, constraints.FixAtoms([]))).is_full


@pytest.mark.parametrize(
    "held",
    [
        constraints.FixAtoms([0]),
        constraints.FixScaled([1], (True, False, False)),
        constraints.FixCartesian([0]),
        constraints.FixedPlane([1], (0, 0, 1)),
        constraints.FixedLine([1], LEANING[2]),
    ],
    ids=lambda constraint: type(constraint).__name__,
)
@pytest.mark.parametrize("frame", [None, 0, 1, 2])
def test_held_coordinates_are_marked(tmp_path, held, frame):
    free = find_freedom(read(tmp_path / "a.traj", frame, held))
    assert free == Freedom(volume=True, shape=True, sites=False)


@pytest.mark.parametrize(
    "held",
    [
        constraints.FixCartesian([0], (True, False, False)),
        constraints.FixedPlane([1], (1, 0, 0)),
        constraints.FixedLine([1], (0, 0, 1)),
        constraints.FixBondLengths([[0, 1]]),
        constraints.FixInternals(bonds=[[2.0, [0, 1]]]),
        constraints.FixedMode(np.ones((2, 3))),
        constraints.Hookean(0, 1, 5.0, rt=2.0),
        constraints.ExternalForce(0, 1, 0.5),
        constraints.FixCom(),
        constraints.FixSymmetry(Atoms("MgO", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=LEANING, pbc=True)),
    ],
    ids=lambda constraint: type(constraint).__name__,
)
@pytest.mark.parametrize("frame", [None, 1])
def test_other_constraints_leave_the_pair_out_by_name(tmp_path, held, frame):
    item = read(tmp_path / "a.traj", frame, held)
    assert (item.result, item.reason) == (None, LeftOut.CONSTRAINT)
    assert item.message.startswith(f"{tmp_path / 'a.traj'}: it was not relaxed freely: ")
    assert type(held).__name__ in item.message


def test_the_held_pair_of_the_field_trial_is_not_free():
    """Whatever is said of its convergence, which the file does not know."""
    (item,) = read_pair_file(Path(__file__).parents[1] / "files" / "odd" / "fixscaled-pair.traj", Stated("PBE"))
    assert item.result is None or find_freedom(item) == Freedom(volume=True, shape=True, sites=False)

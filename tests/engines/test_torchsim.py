"""Chunks relaxed together by TorchSim against relaxations one after the other, and what is said where it is missing."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines import get_engine
from e3relax_flows.engines.chunks import relax_structures
from e3relax_flows.engines.mlip import PotentialConfig
from e3relax_flows.schemas.pairs import Freedom

pytest.importorskip("sevenn")
SETTINGS = {"potential": "SevenNet", "checkpoint": "7net-0", "device": "cpu"}
VOLUME = 0.02  # relative; what fmax leaves open of soft salts


def rock_salt(edge: float, primitive: bool = True) -> Structure:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = salt.get_primitive_structure() if primitive else salt
    found.translate_sites([1], [0.02, 0.0, 0.01])
    return found


def swap_axes(structure: Structure) -> Structure:
    return Structure(structure.lattice.matrix[[1, 0, 2]], structure.species, structure.frac_coords[:, [1, 0, 2]])


def relax(structures, **settings):
    engine = get_engine("mlip", **{**SETTINGS, "batch": "torchsim", **settings})
    found = dict(relax_structures(engine, structures))
    assert sorted(found) == list(range(len(structures)))
    results = [
        found[place] if isinstance(found[place], Exception) else engine.read([found[place]])
        for place in range(len(structures))
    ]
    return found, results


def test_it_says_what_to_type_where_torchsim_is_not_installed(monkeypatch):
    monkeypatch.setattr("e3relax_flows.engines.mlip.find_spec", lambda name: None if name == "torch_sim" else True)
    with pytest.raises(MissingDependencyError, match=r"pip install 'e3relax-flows\[torchsim\]'.* batch=serial"):
        get_engine("mlip", **SETTINGS, batch="torchsim")
    assert get_engine("mlip", **SETTINGS).describe().batch == "serial"


def test_potentials_without_a_model_in_torchsim_are_refused():
    with pytest.raises(EngineError, match=r"CHGNet-0\.3\.0 .* TorchSim, .* SevenNet .*batch=serial"):
        get_engine("chgnet", batch="torchsim")
    with pytest.raises(EngineError, match=r"batch: .*'auto', 'serial'"):
        get_engine("chgnet", batch="many")


def test_one_after_the_other_is_named_and_is_no_other_engine_than_before():
    named, usual = get_engine("mlip", **SETTINGS, batch="serial"), get_engine("sevennet-0", device="cpu")
    assert named.describe().batch == usual.describe().batch == "serial"
    assert named.engine_id == usual.engine_id
    assert PotentialConfig(potential="SevenNet").optimizer is None
    assert named.maker.optimizer_kwargs == {"optimizer": "BFGS"}


needs_torchsim = pytest.mark.skipif(
    find_spec("torch_sim") is None, reason="Python 3.12 and pip install 'e3relax-flows[torchsim]'"
)


@needs_torchsim
def test_a_batch_gives_the_documents_of_one_after_the_other():
    cube = rock_salt(5.3, primitive=False)
    structures = [rock_salt(5.9), cube, swap_axes(rock_salt(5.9))]
    assert np.linalg.det(structures[0].lattice.matrix) * np.linalg.det(structures[2].lattice.matrix) < 0
    together, results = relax(structures)
    apart, expected = relax(structures, batch="serial")
    for place, (result, other) in enumerate(zip(results, expected, strict=True)):
        assert result.converged
        assert result.relaxed.volume == pytest.approx(other.relaxed.volume, rel=VOLUME)
        assert result.energy == pytest.approx(other.energy, abs=1e-3 * len(other.relaxed))
        assert np.allclose(result.initial.lattice.matrix, structures[place].lattice.matrix, atol=1e-5)
        assert result.relaxed.species == structures[place].species
        assert result.free == other.free == Freedom()
        assert (result.code, result.functional) == (other.code, other.functional)
        assert (result.potential.batch, other.potential.batch) == ("torchsim", "serial")
        assert result.potential.weights_hash == other.potential.weights_hash
        energies = [step.energy for step in together[place].output.ionic_steps]
        assert len(set(energies)) == result.n_ionic_steps == len(energies) - 1 > 2
        one, two = (found[place].model_dump() for found in (together, apart))
        assert one.keys() == two.keys()
        assert one["output"].keys() == two["output"].keys()
        assert {key for key in one if (one[key] is None) != (two[key] is None)} == set()
        assert np.shape(one["output"]["forces"]) == np.shape(two["output"]["forces"])
        # kbar, small and of the same sign convention: what is left of the start is not
        assert np.abs(one["output"]["stress"]).max() < 5
    left, right = results[0].relaxed.lattice.matrix, results[2].relaxed.lattice.matrix
    assert np.allclose(left, right[[1, 0, 2]], atol=1e-3)
    ids = {get_engine("mlip", **SETTINGS, batch=batch).engine_id for batch in ("serial", "torchsim")}
    assert len(ids) == 2


@needs_torchsim
def test_limits_and_failures_are_those_of_one_structure():
    apart = Structure(Lattice.cubic(30.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    near = rock_salt(5.7)
    _, results = relax([near, apart, rock_salt(6.5)], max_strain=0.03)
    assert results[0].converged
    assert isinstance(results[1], EngineError)
    assert "no neighbour" in str(results[1])
    assert not results[2].converged
    assert abs(np.log(results[2].relaxed.volume / rock_salt(6.5).volume)) < 3 * 0.03
    _, (stopped,) = relax([rock_salt(6.5)], steps=2)
    assert (stopped.converged, stopped.n_ionic_steps) == (False, 3)
    _, (timed,) = relax([rock_salt(6.5)], time_limit_s=0.0)
    assert (timed.converged, timed.n_ionic_steps) == (False, 1)
    assert timed.relaxed.volume == pytest.approx(rock_salt(6.5).volume, rel=1e-5)
    _, (wrong,) = relax([near], optimizer="BFGS")
    assert "optimizer 'BFGS' cannot relax a batch; use one of LBFGS, FIRE" in str(wrong)


@needs_torchsim
def test_what_is_held_stays():
    start = rock_salt(5.3)
    for free in ("shape", "volume", "sites"):
        _, (result,) = relax([start], free=free)
        same_volume = result.relaxed.volume == pytest.approx(start.volume, rel=1e-3)
        assert same_volume == (free != "volume"), free
        assert (
            result.free
            == {
                "shape": Freedom(volume=False),
                "volume": Freedom(shape=False),
                "sites": Freedom(volume=False, shape=False),
            }[free]
        )
        if free == "volume":
            assert result.relaxed.lattice.angles == pytest.approx(start.lattice.angles, abs=1e-2)


@needs_torchsim
def test_batches_that_do_not_fit_take_turns():
    """A room of one cell at a time, as where the memory of a GPU is small, and one that spoils its batch."""
    from e3relax_flows.engines import torchsim_jobs
    from e3relax_flows.engines.torchsim_batches import BatchRules, relax_together

    maker = get_engine("mlip", **SETTINGS, batch="torchsim").maker
    structures = [rock_salt(5.9), rock_salt(5.3), rock_salt(5.6)]
    atoms = [maker._prepare(structure) for structure in structures]
    rules = BatchRules(room=125.0)  # 78, 107 and 91 are in them: atoms times atoms per nm³
    found = dict(relax_together(maker._load(), atoms, rules))
    together = dict(relax_together(maker._load(), atoms, BatchRules()))
    for place in range(3):
        assert found[place].converged
        assert found[place].energies[-1] == pytest.approx(together[place].energies[-1], abs=1e-4)
        assert len(found[place].energies) == len(together[place].energies)

    def fail(model, crystals, rules):
        if len(crystals) > 1:
            yield 1, together[1]
            raise RuntimeError("out of memory")
        yield from relax_together(model, crystals, rules)

    original, torchsim_jobs.relax_together = torchsim_jobs.relax_together, fail
    try:
        documents = dict(maker.relax_many(structures))
    finally:
        torchsim_jobs.relax_together = original
    assert sorted(documents) == [0, 1, 2]
    assert not any(isinstance(document, Exception) for document in documents.values())

"""Engines by name, and engines as fields of makers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from jobflow import Flow, Maker
from monty.json import MontyDecoder
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines import Engine, get_engine, list_engines, registry
from e3relax_flows.engines.registry import recall_settings


@dataclass
class HolderMaker(Maker):
    """What a flow of ours looks like to jobflow: a maker with an engine as a field."""

    name: str = "holder"
    engine: Engine = field(default_factory=lambda: get_engine("vasp"))

    def make(self, structure: Structure) -> Flow:
        return self.engine.make(structure)


def test_listing_engines_loads_nothing_heavy():
    code = (
        "import sys; from e3relax_flows.engines import list_engines; names = [info.name for info in list_engines()];"
        "print(len(names), [m for m in ('torch', 'atomate2', 'ase', 'gpaw', 'chgnet') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "17 []"


def test_listing_says_what_is_dft_and_what_to_type(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("ATOMATE2_VASP_CMD", raising=False)
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "gpaw" else importlib.util.find_spec(name))
    engines = {info.name: info for info in list_engines()}
    assert [name for name, info in engines.items() if not info.is_dft] == [
        *("chgnet", "chgnet-r2scan", "sevennet", "sevennet-0", "mace-mp-0", "mace-mpa-0", "mlip")
    ]
    assert engines["gpaw"].available is False
    assert engines["gpaw"].hint.endswith("pip install 'e3relax-flows[gpaw]'")
    assert "ATOMATE2_VASP_CMD" in engines["vasp"].hint


def test_vasp_is_available_when_its_command_is(monkeypatch):
    monkeypatch.setenv("ATOMATE2_VASP_CMD", f"mpirun -n 4 {sys.executable}")
    assert {info.name: info.available for info in list_engines()}["vasp-mp24"] is True


def test_unknown_engine_names_the_known_ones():
    with pytest.raises(EngineError, match=r"'vsp' .*\bvasp\? known: chgnet, "):
        get_engine("vsp")


def test_unknown_setting_names_the_known_ones():
    with pytest.raises(EngineError, match=r"'chgnet' .*'fmx'; .* fmax\? known: fmax, st"):
        get_engine("chgnet", fmx=0.1)


def test_value_that_cannot_be_used_is_named():
    with pytest.raises(EngineError, match=r"'chgnet' .* fmax: .*number"):
        get_engine("chgnet", fmax="small")
    with pytest.raises(EngineError, match=r"'mlip' .* potential: Field req"):
        get_engine("mlip")


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", {}.get)
    with pytest.raises(MissingDependencyError, match=r"pip install 'e3relax-flows\[mlip\]'"):
        get_engine("chgnet")


def test_update_kwargs_reaches_the_maker_in_an_engine():
    from atomate2.vasp.jobs.base import BaseVaspMaker

    holder = HolderMaker()
    updated = holder.update_kwargs({"run_vasp_kwargs": {"max_errors": 1}}, class_filter=BaseVaspMaker, nested=True)
    assert updated.engine.maker.relax_maker2.run_vasp_kwargs == {"max_errors": 1}
    assert updated.engine.maker.relax_maker1.stop_children_kwargs == {"handle_unsuccessful": False}
    assert holder.engine.maker.relax_maker2.run_vasp_kwargs == {}
    assert updated.engine.engine_id != holder.engine.engine_id


def test_engines_survive_the_round_trip_of_their_makers():
    for name in ("vasp-mp-gga", "vasp-matpes"):
        holder = MontyDecoder().process_decoded(HolderMaker(engine=get_engine(name)).as_dict())
        assert type(holder.engine).__name__ == "VaspEngine"
        assert holder.engine.name == name
        assert holder.engine.engine_id == get_engine(name).engine_id


def test_settings_are_recalled_where_the_name_and_they_give_the_engine():
    engine = get_engine("chgnet", fmax=0.05)
    assert recall_settings(engine) == {"fmax": 0.05}
    engine.maker = get_engine("chgnet", fmax=0.1).maker
    assert recall_settings(engine) is None
    holder = MontyDecoder().process_decoded(HolderMaker(engine=get_engine("vasp")).as_dict())
    assert recall_settings(holder.engine) is None
    assert recall_settings(get_engine("vasp")) == {}


def test_making_flows_leaves_the_engine_as_it_was():
    engine = get_engine("vasp-mp24-static")
    before = engine.engine_id
    silicon = Structure(Lattice.cubic(5.4), ["Si"], [[0, 0, 0]])
    flow = engine.make(silicon)
    jobs = [job.name for job in flow.jobs[0].jobs]
    assert jobs == ["MP24 PBEsol pre-relaxation 1", "MP24 r2SCAN relaxation 2"]
    # the job that removes WAVECARs leaves no document to read
    assert len(list(flow.iterflow())) == 4
    assert len(engine.collect_outputs(flow)) == 3
    assert engine.engine_id == before

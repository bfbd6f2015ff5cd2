"""The functional of an engine compared with that of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from atomate2.vasp.powerups import update_user_incar_settings

from e3relax_flows.core.model_folders import ModelFolder, find_model, list_model_folders
from e3relax_flows.engines import get_engine
from e3relax_flows.engines.vasp import VaspEngine
from e3relax_flows.prerelax.functionals import compare_functionals


def model_of(*functionals: str) -> ModelFolder:
    return ModelFolder(Path("mine"), "mine", "0" * 16, {"functionals": list(functionals)})


@pytest.mark.parametrize(
    ("engine", "model"),
    [
        ("vasp-mp-gga", find_model("small")),
        ("vasp-mp24", find_model("small-r2scan")),
        ("vasp", find_model("small-pbesol")),
        ("vasp-single", model_of("PBEsol+U")),
        ("chgnet", model_of("PBE")),  # its training data are PBE(+U)
        ("vasp", model_of()),
        ("chgnet", model_of("CHGNet-0.3.0")),  # trained on labels of this potential
    ],
)
def test_what_agrees_or_is_not_known_needs_no_word(engine, model):
    assert compare_functionals(get_engine(engine), model) is None


def test_a_bundled_model_that_fits_is_named():
    for engine, functional, fitting in (
        ("chgnet-r2scan", "r2SCAN", "small-r2scan"),
        ("vasp", "PBEsol", "small-pbesol"),
    ):
        message = compare_functionals(get_engine(engine), find_model("default"))
        assert f"ends with {functional}" in message
        assert "relaxed with PBE;" in message
        assert f"use model {fitting}" in message


def test_without_a_fitting_model_the_savings_are_to_be_measured():
    maker = update_user_incar_settings(get_engine("vasp-single").maker, {"GGA": "RP"})
    engine = VaspEngine.from_maker(maker)
    message = compare_functionals(engine, model_of("PBE+U", "r2SCAN"))
    assert "ends with RPBE, but model mine predicts structures relaxed with PBE or r2SCAN; measure" in message
    assert "use model" not in message


def test_a_maker_that_cannot_be_asked_stops_nothing(monkeypatch):
    monkeypatch.setattr(VaspEngine, "functional", property(lambda self: self.maker.no_such_field))
    assert compare_functionals(get_engine("vasp"), model_of("PBE")) is None


def test_every_bundled_model_states_its_functionals():
    assert {model.name: model.functionals for model in list_model_folders()} == {
        "base": ["PBE", "PBE+U"],
        "small": ["PBE", "PBE+U"],
        "small-pbesol": ["PBEsol"],
        "small-r2scan": ["r2SCAN"],
    }

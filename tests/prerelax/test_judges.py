from __future__ import annotations

from dataclasses import replace

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows import CampaignConfig, CampaignMaker, PredictOptions
from e3relax_flows.core.errors import ConfigError, EngineError
from e3relax_flows.core.model_folders import find_model
from e3relax_flows.engines import get_engine
from e3relax_flows.prerelax.flow import PrerelaxFlowMaker
from e3relax_flows.prerelax.judges import check_calibrated, check_judge
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.screening.maker import ScreenMaker

pytest.importorskip("chgnet")


def test_an_engine_is_not_its_own_judge():
    engine, judged = get_engine("chgnet"), PrerelaxMaker(second_opinion="chgnet")
    message = r"engine 'chgnet' .*\(CHGNet-0\.3\.0\): "
    for maker in (PrerelaxFlowMaker, ScreenMaker):
        with pytest.raises(ConfigError, match=message):
            maker(prerelax=judged, engine=engine)
        assert maker(prerelax=PrerelaxMaker(), engine=engine).engine is engine
        assert maker(prerelax=judged, engine=get_engine("vasp-single")).prerelax is judged
    with pytest.raises(ConfigError, match=r"engine 'mlip' .*\(CHGNet-0\.3\.0\): "):  # by another name
        check_judge("chgnet", get_engine("mlip", potential="CHGNet"))
    check_judge("chgnet-r2scan", engine)
    check_judge(None, engine)
    with pytest.raises(EngineError, match=r"'chgnett' .* chgnet\? known: chgnet, chgnet-r2scan, sevennet"):
        check_judge("chgnett", engine)
    with pytest.raises(ConfigError, match=r"engine 'mlip' .*CHGNetCalculator\), .*potential=CHGNet"):
        check_judge("chgnet", get_engine("mlip", potential="chgnet.model.dynamics:CHGNetCalculator"))
    check_judge("sevennet", get_engine("mlip", potential="chgnet.model.dynamics:CHGNetCalculator"))
    config = CampaignConfig(engine="chgnet", inputs=["pool/"], labels=1, retraining={"holdout": "mine"})
    assert CampaignMaker(config=config, engine=engine).engine is engine
    with pytest.raises(ConfigError, match=message):
        CampaignMaker(config=config.model_copy(update={"options": judged.options}), engine=engine)


def test_the_makers_second_opinion_is_an_option_of_its_predictions():
    maker = PrerelaxMaker(second_opinion="chgnet", options={"passes": 3})
    assert maker.options == PredictOptions(passes=3, second_opinion="chgnet")
    again = PrerelaxMaker.from_dict(maker.as_dict())
    assert again.options == maker.options
    assert replace(maker, polish=3).options == PredictOptions(passes=3, second_opinion="chgnet", polish=3)
    assert replace(maker, options=PredictOptions(second_opinion="sevennet")).options.second_opinion == "sevennet"
    assert replace(maker, options=PredictOptions()).options == PredictOptions()
    job = maker.make(Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    job.update_maker_kwargs({"_set": {"options->second_opinion": "sevennet"}}, dict_mod=True)
    assert job.maker.options == PredictOptions(passes=3, second_opinion="sevennet")
    assert "second_opinion" not in PrerelaxMaker().as_dict()["options"]


def test_a_model_is_asked_for_its_calibration_before_any_job_is():
    folder = find_model("small")
    for name, polish in (("chgnet", "auto"), ("sevennet", 5), (None, 0)):
        check_calibrated(PredictOptions(second_opinion=name, polish=polish), folder)
    with pytest.raises(ConfigError, match=r"CHGNet-r2SCAN \(calibrated: .*; run: e3relax models calibrate"):
        check_calibrated(PredictOptions(second_opinion="chgnet-r2scan"), folder)
    calibration = {name: entry for name, entry in folder.config["calibration"].items() if name != "polish"}
    bare = replace(folder, config=folder.config | {"calibration": calibration})
    check_calibrated(PredictOptions(second_opinion="chgnet", polish=2), bare)
    with pytest.raises(ConfigError, match=r"CHGNet-0\.3\.0; .*polish=5"):
        check_calibrated(PredictOptions(second_opinion="chgnet", polish="auto"), bare)

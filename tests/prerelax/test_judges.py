from __future__ import annotations

import pytest

from e3relax_flows import PredictOptions
from e3relax_flows.core.errors import ConfigError, EngineError
from e3relax_flows.engines import get_engine
from e3relax_flows.prerelax.flow import PrerelaxFlowMaker
from e3relax_flows.prerelax.judges import check_judge
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.screening.maker import ScreenMaker

pytest.importorskip("chgnet")


def test_an_engine_is_not_its_own_judge():
    engine, judged = get_engine("chgnet"), PrerelaxMaker(second_opinion="chgnet")
    message = r"'chgnet' relaxes with the same weights \(CHGNet-0.3.0\): its savings would only say that the potential"
    for maker in (PrerelaxFlowMaker, ScreenMaker):
        with pytest.raises(ConfigError, match=message):
            maker(prerelax=judged, engine=engine)
        assert maker(prerelax=PrerelaxMaker(), engine=engine).engine is engine
        assert maker(prerelax=judged, engine=get_engine("vasp-single")).prerelax is judged
    with pytest.raises(ConfigError, match="same weights"):  # by another name
        check_judge("chgnet", get_engine("mlip", potential="CHGNet"))
    check_judge("chgnet-r2scan", engine)
    check_judge(None, engine)
    with pytest.raises(EngineError, match="is unknown; known: CHGNet"):
        check_judge("chgnett", engine)


def test_the_makers_second_opinion_is_an_option_of_its_predictions():
    maker = PrerelaxMaker(second_opinion="chgnet", options={"passes": 3})
    assert maker.options == PredictOptions(passes=3, second_opinion="chgnet")
    again = PrerelaxMaker.from_dict(maker.as_dict())
    assert (again.options, again.second_opinion) == (maker.options, "chgnet")
    assert PrerelaxMaker(options=maker.options).second_opinion == "chgnet"
    assert PrerelaxMaker().second_opinion is None
    assert "second_opinion" not in PrerelaxMaker().as_dict()["options"]

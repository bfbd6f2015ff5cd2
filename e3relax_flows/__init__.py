"""Structure relaxation workflows: one-shot prediction with E3Relax-H2 in front of DFT.

Names are imported when they are first used, so that `import e3relax_flows` needs neither torch nor a database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from e3relax_flows.core.moved import find_moved_modules

if TYPE_CHECKING:
    from e3relax_flows.ledger.frames import outcomes_dataframe, predictions_dataframe
    from e3relax_flows.predict.predictor import Predictor
    from e3relax_flows.schemas.predictions import Constraints, GuardLimits, Prediction, PredictOptions

__all__ = [
    "Constraints",
    "GuardLimits",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "outcomes_dataframe",
    "predictions_dataframe",
]

_HOMES = {
    "Constraints": "e3relax_flows.schemas.predictions",
    "GuardLimits": "e3relax_flows.schemas.predictions",
    "PredictOptions": "e3relax_flows.schemas.predictions",
    "Prediction": "e3relax_flows.schemas.predictions",
    "Predictor": "e3relax_flows.predict.predictor",
    "outcomes_dataframe": "e3relax_flows.ledger.frames",
    "predictions_dataframe": "e3relax_flows.ledger.frames",
}


find_moved_modules()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""The name of a functional as a field of documents and configurations: spelled when it is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from e3relax_flows.core.functionals import spell_functional

FunctionalName = Annotated[str, AfterValidator(spell_functional)]

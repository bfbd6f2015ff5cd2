"""Documents as JSON text and back, with the types that MongoDB keeps and JSON lacks.

Datetimes become naive UTC with milliseconds, exactly as they come back from MongoDB; ObjectIds, bytes, NaN and
infinities survive. Each of these is written as {"$bson": <MongoDB's extended JSON>}, so that a document that
happens to hold a key such as "$date" or "$regex" is left alone.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from bson.json_util import LEGACY_JSON_OPTIONS, default, object_hook

TAG = "$bson"
OPTIONS = LEGACY_JSON_OPTIONS.with_options(tz_aware=False, tzinfo=None)


def encode_document(document: Any) -> str:
    """ASCII JSON text of a document that monty's `jsanitize(allow_bson=True)` has cleaned.

    Raises
    ------
    TypeError
        When a value is of none of the types that MongoDB knows.
    """
    try:
        return json.dumps(document, default=_tag, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a NaN or an infinity, which JSON cannot write
        return json.dumps(_tag_floats(document), default=_tag, separators=(",", ":"))


def decode_document(text: str) -> Any:
    """The document that `encode_document` wrote."""
    return json.loads(text, object_hook=_untag)


def normalize_criteria(value: Any) -> Any:
    """A query with its datetimes as they are stored: naive, UTC, whole milliseconds."""
    if isinstance(value, datetime):
        value = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    if isinstance(value, dict):
        return {key: normalize_criteria(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [normalize_criteria(item) for item in value]
    return value


def _tag(value: Any) -> dict[str, Any]:
    return {TAG: default(value, OPTIONS)}


def _untag(value: dict[str, Any]) -> Any:
    if len(value) == 1 and TAG in value and isinstance(value[TAG], dict):
        return object_hook(value[TAG], OPTIONS)
    return value


def _tag_floats(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {TAG: {"$numberDouble": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}}
    if isinstance(value, dict):
        return {key: _tag_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tag_floats(item) for item in value]
    return value

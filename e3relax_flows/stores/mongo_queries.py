"""MongoDB's query language over JSON documents in SQLite: a prefilter in SQL, and the rest in Python.

`build_prefilter` gives SQL that keeps every document that can match (and maybe more); mongomock_ng's
`filter_applies` then decides. Projection, sorting and distinct values work on decoded documents.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from maggma.core import Sort
from mongomock_ng.filtering import NOTHING, filter_applies, iter_key_candidates, resolve_sort_key

from e3relax_flows.core.errors import StoreError
from e3relax_flows.stores.json_documents import encode_document

# what an index holds instead of an array or a dictionary, so that such documents are checked in Python
NESTED = "<nested>"
PLAIN_NAME = re.compile(r"[A-Za-z_@][A-Za-z0-9_@:-]*")
MAX_INTEGER = 2**53


@lru_cache(maxsize=1024)
def express_field(field: str) -> str | None:
    """SQL for the scalar at the dotted path `field` of the column `document`; None if SQL cannot express it.

    An array or a dictionary there, or an array on the way, gives `NESTED`: MongoDB looks inside these.
    """
    names = field.split(".")
    if not all(PLAIN_NAME.fullmatch(name) for name in names):
        return None
    paths = ["$" + "".join(f'."{name}"' for name in names[: n + 1]) for n in range(len(names))]
    conditions = [f"json_type(document, '{path}') = 'array'" for path in paths[:-1]]
    conditions.append(f"json_type(document, '{paths[-1]}') IN ('array', 'object')")
    return f"CASE WHEN {' OR '.join(conditions)} THEN '{NESTED}' ELSE json_extract(document, '{paths[-1]}') END"


def build_prefilter(criteria: dict[str, Any]) -> tuple[str, list[Any]]:
    """SQL condition and its parameters, true for every document that may match `criteria`."""
    clauses, parameters = _collect_clauses(criteria)
    return " AND ".join(clauses) or "TRUE", parameters


class Matcher:
    """A query, applied to one document after another.

    Long lists of `$in`, such as the ids of a whole campaign, are looked up in a set, not gone through.

    Parameters
    ----------
    criteria
        The query, with datetimes as they are stored.
    """

    def __init__(self, criteria: dict[str, Any]) -> None:
        self.criteria = criteria
        self._sets = {
            field: frozenset(condition["$in"])
            for field, condition in criteria.items()
            if not field.startswith("$") and "." not in field
            if isinstance(condition, dict) and isinstance(condition.get("$in"), list)
            if all(isinstance(value, str) for value in condition["$in"])
        }

    def accept(self, document: dict[str, Any]) -> bool:
        """Whether the document matches."""
        criteria = self.criteria
        for field, wanted in self._sets.items():
            value = document.get(field)
            if isinstance(value, str):
                if value not in wanted:
                    return False
                criteria = {**criteria, field: {**criteria[field], "$in": [value]}}
        return not criteria or filter_applies(criteria, document)


def project_document(document: dict[str, Any], properties: dict[str, Any] | list[str] | None) -> dict[str, Any]:
    """The fields of a document that `properties` includes or, as {field: 0}, does not exclude; `_id` as in MongoDB.

    Raises
    ------
    StoreError
        When fields are both included and excluded, or a projection operator is used.
    """
    if not properties:
        return document
    spec = dict(properties) if isinstance(properties, dict) else dict.fromkeys(properties, 1)
    if operators := [field for field, value in spec.items() if isinstance(value, dict)]:
        raise StoreError(f"projection operators are not supported (field {operators[0]!r}); ask for the whole field")
    keep_id = spec.pop("_id", True)
    if len({bool(value) for value in spec.values()}) == 2:
        raise StoreError(f"projection {properties} both includes and excludes fields; do one of them")
    if spec and all(spec.values()):
        fields = [*spec, "_id"] if keep_id else list(spec)
        return _include(document, _grow_tree(fields))
    return _exclude(document, _grow_tree(spec if keep_id else [*spec, "_id"]))


def sort_documents(documents: Iterable[dict[str, Any]], sort: dict[str, Sort | int]) -> list[dict[str, Any]]:
    """Documents in the order of the fields of `sort`, the first field first; ties keep their order."""
    ordered = list(documents)
    for field, direction in reversed(sort.items()):
        descending = (direction.value if isinstance(direction, Sort) else direction) < 0
        ordered.sort(key=lambda document, field=field: resolve_sort_key(field, document), reverse=descending)  # type: ignore[misc]
    return ordered


def list_distinct(documents: Iterable[dict[str, Any]], field: str) -> list[Any]:
    """Different values of `field`, elements of arrays counted one by one, in order of first appearance."""
    found: dict[str, Any] = {}
    for document in documents:
        for candidate in iter_key_candidates(field, document):
            if candidate is NOTHING:
                continue
            for value in candidate if isinstance(candidate, list) else [candidate]:
                found.setdefault(identify_value(value), value)
    return list(found.values())


def identify_value(value: Any) -> str:
    """Text that is equal for values that MongoDB takes as equal (1 and 1.0), and different for others."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return encode_document(value)


def _collect_clauses(criteria: dict[str, Any]) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    parameters: list[Any] = []
    for field, condition in criteria.items():
        if field == "$and":
            for part in condition:
                more, values = _collect_clauses(part)
                clauses += more
                parameters += values
            continue
        wanted = _list_scalars(condition)
        expression = express_field(field)
        if wanted is None or expression is None:
            continue
        if len(wanted) == 1:
            clauses.append(f"{expression} IN (?, '{NESTED}')")
            parameters.append(wanted[0])
        else:  # one parameter, however many values
            clauses.append(f"{expression} IN (SELECT value FROM json_each(?))")
            parameters.append(json.dumps([NESTED, *wanted]))
    return clauses, parameters


def _list_scalars(condition: Any) -> list[Any] | None:
    """The scalars one of which the field must equal, or None where SQL would not compare as MongoDB does."""
    if isinstance(condition, dict):
        if "$eq" in condition:
            values = [condition["$eq"]]
        elif isinstance(condition.get("$in"), list | tuple):
            values = list(condition["$in"])
        else:
            return None
    else:
        values = [condition]
    return values if all(_is_comparable(value) for value in values) else None


def _is_comparable(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" not in value and value.isprintable()
    if isinstance(value, bool | int):
        return abs(value) <= MAX_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def _grow_tree(fields: Iterable[str]) -> dict[str, Any]:
    """Nested dictionaries of dotted paths; True ends a path and wins over longer ones."""
    tree: dict[str, Any] = {}
    for field in fields:
        *parents, last = field.split(".")
        branch: Any = tree
        for name in parents:
            branch = branch.setdefault(name, {})
            if branch is True:
                break
        else:
            branch[last] = True
    return tree


def _include(value: Any, tree: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_include(item, tree) for item in value if isinstance(item, dict | list)]
    return {
        name: item if tree[name] is True else _include(item, tree[name])
        for name, item in value.items()
        if name in tree and (tree[name] is True or isinstance(item, dict | list))
    }


def _exclude(value: Any, tree: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_exclude(item, tree) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _exclude(item, tree[name]) if name in tree else item
        for name, item in value.items()
        if tree.get(name) is not True
    }

"""Documents of every shape, and queries that tell them apart."""

from __future__ import annotations

DOCS = [
    {"uuid": "a", "index": 1, "energy": -1.5, "tags": ["oxide", "spinel"], "cell": {"a": 3.0, "pbc": [True, True]}},
    {"uuid": "b", "index": 1, "energy": -3, "tags": [], "cell": {"a": 4.0}, "flag": True},
    {"uuid": "b", "index": 2, "energy": None, "tags": ["oxide"], "sites": [{"el": "Fe", "n": 2}, {"el": "O", "n": 3}]},
    {"uuid": "c", "index": 1, "flag": 1, "sites": [{"el": "Fe", "n": 3}], "cell": [{"a": 3.0}, {"a": 5}], "tags": "x"},
    {"uuid": "d", "index": 1, "energy": "low", "flag": False, "cell": {"a": [3.0, 9.0]}, "a.b": 1, "text": "ü\n'\"$"},
]
QUERIES = [
    {},
    {"uuid": "b"},
    {"uuid": {"$in": ["a", "c", "z"]}},
    {"uuid": {"$in": []}},
    {"uuid": {"$in": ["b"]}, "index": 2},
    {"uuid": {"$nin": ["a", "c"]}},
    {"uuid": {"$ne": "b"}},
    {"energy": {"$gt": -2}},
    {"energy": {"$gte": -3, "$lt": -1.5}},
    {"energy": -3.0},
    {"energy": None},
    {"energy": {"$exists": False}},
    {"energy": {"$exists": True, "$ne": None}},
    {"energy": {"$type": "string"}},
    {"flag": True},
    {"flag": 1},
    {"flag": {"$in": [0, False]}},
    {"tags": "oxide"},
    {"tags": "x"},
    {"tags": ["oxide"]},
    {"tags": []},
    {"tags": {"$in": ["spinel", "x"]}},
    {"tags": {"$all": ["oxide", "spinel"]}},
    {"tags": {"$size": 1}},
    {"cell.a": 3.0},
    {"cell.a": 3},
    {"cell.a": {"$in": [4, 5, 9]}},
    {"cell": {"a": 4.0}},
    {"cell.0.a": 3.0},
    {"cell.pbc": True},
    {"sites.el": "Fe"},
    {"sites.el": {"$in": ["O"]}},
    {"sites": {"$elemMatch": {"el": "Fe", "n": 3}}},
    {"sites.el": "Fe", "sites.n": 3},
    {"sites.1.el": "O"},
    {"$or": [{"uuid": "a"}, {"energy": {"$lt": -2}}]},
    {"$and": [{"uuid": "b"}, {"$and": [{"index": {"$eq": 1}}]}]},
    {"$nor": [{"uuid": "a"}, {"index": 2}]},
    {"$and": [{"uuid": {"$in": ["a", "b"]}}, {"$or": [{"tags": "oxide"}, {"flag": True}]}]},
    {"uuid": {"$regex": "^[ab]"}},
    {"text": "ü\n'\"$"},
    {"uuid": {"$not": {"$eq": "a"}}},
    {"uuid": "<nested>"},
]


def strip(docs):
    return [{key: value for key, value in doc.items() if key != "_id"} for doc in docs]

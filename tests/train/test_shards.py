from __future__ import annotations

import shutil

import numpy as np
import pytest
from made_halides import make_pairs, write_pairs

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.pairs import identify_pairs
from e3relax_flows.train.shards import list_shards, read_shard, write_shards


@pytest.fixture
def pairs(tmp_path):
    rows = make_pairs(0, 20)
    rows[3] |= {"functional": "PBEsol", "source": "élan"}
    del rows[4]["functional"]
    return load_pairs([write_pairs(tmp_path / "pairs.jsonl.gz", rows)])


def test_shards_hold_the_same_pairs_to_the_bit(pairs, tmp_path):
    paths = write_shards(pairs, tmp_path / "shards", size=8)
    assert [path.name for path in paths] == [f"pairs-0000{i}-of-00003.safetensors" for i in range(3)]
    assert [len(read_shard(path)) for path in paths] == [8, 8, 4]
    for given in ([tmp_path / "shards"], paths):
        again = load_pairs(given)
        assert identify_pairs(again) == identify_pairs(pairs)
        assert again.ids == pairs.ids
        assert again.sources == pairs.sources
        assert again.functionals[2:6] == ["PBE", "PBEsol", "unknown", "PBE"]
        assert again.groups == pairs.groups
        assert np.array_equal(again.fractions, pairs.fractions)
        assert again.numbers.dtype == pairs.numbers.dtype
        assert again[17].relaxed_lattice.tolist() == pairs[17].relaxed_lattice.tolist()
    mixed = load_pairs([paths[0], tmp_path / "pairs.jsonl.gz"])
    assert len(mixed) == 28
    assert np.array_equal(mixed[8].initial_fractions, pairs[0].initial_fractions)
    with pytest.raises(ConfigError, match=r"holds pairs-00000-of-00003.safetensors already"):
        write_shards(pairs, tmp_path / "shards", size=8)


def test_the_hash_is_of_content_and_order(pairs):
    assert identify_pairs(pairs.select(range(20))) == identify_pairs(pairs)
    assert identify_pairs(pairs.select(range(19, -1, -1))) != identify_pairs(pairs)
    moved = pairs.select(range(20))
    moved.fractions[1, 0, 0] += 1e-12
    assert identify_pairs(moved) != identify_pairs(pairs)


def test_missing_damaged_and_foreign_shards_are_refused(pairs, tmp_path):
    paths = write_shards(pairs, tmp_path / "shards", size=8)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "shards", copy)
    (copy / paths[1].name).unlink()
    with pytest.raises(ConfigError, match=r"/copy .* 3 shards, .*pairs-00001-of-00003\.safetensors"):
        list_shards(copy)
    content = bytearray(paths[2].read_bytes())
    content[-5] ^= 1
    paths[2].write_bytes(content)
    with pytest.raises(ConfigError, match=r"pairs-00002-of-00003\.safetensors .* [0-9a-f]{16}, not [0-9a-f]{16};"):
        load_pairs([tmp_path / "shards"])
    paths[2].write_bytes(content[:200])
    with pytest.raises(ConfigError, match=r"pairs-00002-of-00003\.safetensors .*`e3relax data shards`"):
        load_pairs([tmp_path / "shards"])
    with pytest.raises(ConfigError, match=r"\(pairs-\*\.safetensors\); .*`e3relax data shards`"):
        load_pairs([tmp_path])
    with pytest.raises(ConfigError, match=r"none\.safetensors .*`e3relax data shards`"):
        load_pairs([tmp_path / "none.safetensors"])

"""Model folders: saved whole, loaded exactly, damaged ones refused; the authors' checkpoints imported."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from authors_format import make_ema, write_checkpoint
from released_golden import load_arrays, load_crystals, load_weights
from safetensors.torch import load_file, save_file

from e3relax_flows.core.errors import ModelError
from e3relax_flows.core.model_folders import ModelFolder, find_model, list_model_folders, read_model_folder
from e3relax_flows.graphs.batching import pack_crystals
from e3relax_flows.model.files import import_checkpoint, load_network, save_model
from e3relax_flows.model.released import ReleasedConfig, ReleasedE3RelaxH2

DATA = Path(__file__).resolve().parents[1] / "files"
SHARED_CHECKPOINT = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "authors_checkpoint.pt"
FLOAT32 = 1e-5  # Å
CONFIG = ReleasedConfig(n_channels=6, n_layers=2, n_radial=5, n_elements=30)


def make_network(seed: int = 0) -> ReleasedE3RelaxH2:
    torch.manual_seed(seed)
    return ReleasedE3RelaxH2(CONFIG)


def golden_ema() -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_weights().items()}


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return save_model(tmp_path / "mine", make_network(), "# mine\n", {"calibration": {"max_score": 0.2}})


def test_a_saved_model_comes_back_exactly(folder: ModelFolder, tmp_path: Path) -> None:
    original = make_network()
    loaded = load_network(folder)
    assert isinstance(loaded, ReleasedE3RelaxH2)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert loaded.dtype == torch.float32
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in original.state_dict().items())
    assert load_network(folder, dtype=torch.float64).dtype == torch.float64
    assert folder.config["calibration"] == {"max_score": 0.2}
    assert (folder.path / "card.md").read_text() == "# mine\n"
    assert find_model("mine", tmp_path) == find_model(folder.model_id[:8], tmp_path) == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]  # nothing unfinished is left


def test_the_id_tells_weights_and_configuration(folder: ModelFolder, tmp_path: Path) -> None:
    extra = {"calibration": {"max_score": 0.2}}
    same = save_model(tmp_path / "same", make_network(), "# another card\n", extra)
    other_weights = save_model(tmp_path / "weights", make_network(seed=1), "", extra)
    other_extra = save_model(tmp_path / "extra", make_network(), "", {"calibration": {"max_score": 0.3}})
    assert same.model_id == folder.model_id
    assert len({folder.model_id, other_weights.model_id, other_extra.model_id}) == 3


def test_a_name_is_not_given_twice(folder: ModelFolder) -> None:
    again = save_model(folder.path, make_network(), "# mine\n", {"calibration": {"max_score": 0.2}})
    assert again == folder
    with pytest.raises(ModelError, match=f"/mine .*[(]{folder.model_id}, .* [0-9a-f]{{16}}[)]"):
        save_model(folder.path, make_network(seed=1), "# other\n")
    assert read_model_folder(folder.path) == folder


def test_a_broken_model_does_not_keep_others_from_being_found(folder: ModelFolder, tmp_path: Path) -> None:
    broken = save_model(tmp_path / "broken", make_network(seed=1), "")
    (broken.path / "weights.safetensors").unlink()
    assert find_model("mine", tmp_path) == folder
    with pytest.raises(ModelError, match=r"broken .*config\.json .*weights\.safetensors"):
        find_model("broken", tmp_path)
    with pytest.raises(ModelError, match=r"'mina' .* \d .*\(.*mine.*`e3relax models list`"):
        find_model("mina", tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="Errno 28"):
        save_model(tmp_path / "models" / "mine", make_network(), "")
    assert list((tmp_path / "models").iterdir()) == []


def test_an_unfinished_model_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []

    def look(_: int) -> None:
        listed.append([folder.name for folder in list_model_folders(tmp_path) if folder.path.parent == tmp_path])

    monkeypatch.setattr("os.fsync", look)
    save_model(tmp_path / "mine", make_network(), "")
    assert listed[:3] == [[], [], []]
    assert listed[-1] == ["mine"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"kind": "mine"}, r"extra .*\['kind'\]"),
        ({"note": float("nan")}, r"extra .*JSON \(.*\bnan\)"),
        ({"note": Path("x")}, r"extra .*JSON \(.*Path.*\)"),
    ],
)
def test_unusable_extra_entries_are_refused(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        save_model(tmp_path / "mine", make_network(), "", extra)
    assert list(tmp_path.iterdir()) == []


def test_loading_leaves_random_numbers_alone(folder: ModelFolder) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_network(folder)
    assert torch.equal(torch.rand(4), expected)


def test_half_written_weights_are_refused(folder: ModelFolder) -> None:
    file = folder.path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"weights\.safetensors .*sha256 .*config\.json"):
        load_network(read_model_folder(folder.path))


def test_one_changed_bit_is_refused(folder: ModelFolder) -> None:
    file = folder.path / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.safetensors .*sha256 .*config\.json"):
        load_network(read_model_folder(folder.path))


def test_a_model_exchanged_after_it_was_found_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", make_network(seed=1), "")
    for name in ("weights.safetensors", "config.json"):
        (folder.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(ModelError, match=r"weights\.safetensors .*sha256 .*config\.json"):
        load_network(folder)
    assert load_network(read_model_folder(folder.path)).config == CONFIG


def test_weights_that_are_no_safetensors_are_refused(folder: ModelFolder) -> None:
    rewrite(folder, weights=b"\x80\x02}q\x00." * 50)
    with pytest.raises(ModelError, match=r"weights\.safetensors .*\(.*deserializing: .*\)"):
        load_network(read_model_folder(folder.path))


def rewrite(folder: ModelFolder, weights: bytes | None = None, **config: Any) -> None:
    """Change a model's files consistently, so that only their content is wrong."""
    file = folder.path / "weights.safetensors"
    if weights is not None:
        file.write_bytes(weights)
    entries = folder.config | {"weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()} | config
    (folder.path / "config.json").write_text(json.dumps(entries))


def test_weights_that_do_not_fit_are_refused(folder: ModelFolder, tmp_path: Path) -> None:
    weights = load_file(folder.path / "weights.safetensors")
    del weights["axis_embedding.weight"]
    weights["surplus"] = torch.zeros(2)
    weights["layers.1.step.weight"] = torch.zeros(1, 7)
    save_file(weights, tmp_path / "changed.safetensors")
    rewrite(folder, (tmp_path / "changed.safetensors").read_bytes())
    message = (
        r"'released' .*: 1 missing \(axis_embedding.weight\); 1 unknown \(surplus\); "
        r"1 .*\(layers.1.step.weight \[1, 7\] .* \[1, 6\]\)"
    )
    with pytest.raises(ModelError, match=message):
        load_network(read_model_folder(folder.path))


def test_unknown_kinds_and_settings_are_refused(folder: ModelFolder) -> None:
    rewrite(folder, kind="hotrelax")
    with pytest.raises(ModelError, match=r"kind 'hotrelax' .* e3relax_h2, released; .*pip install -U"):
        load_network(read_model_folder(folder.path))
    rewrite(folder, network=CONFIG.model_dump() | {"n_layers": 0, "colour": "red"})
    with pytest.raises(ModelError, match=r"n_layers: .* 1; colour: .*pip install -U"):
        load_network(read_model_folder(folder.path))
    rewrite(folder, format_version=99)
    with pytest.raises(ModelError, match=r"version 99, .* 1; .*pip install -U"):
        read_model_folder(folder.path)
    (folder.path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"version None, .* 1; .*pip install -U"):
        read_model_folder(folder.path)


def test_format_1_stays_readable() -> None:
    folder = read_model_folder(DATA / "released_format1")
    assert folder.model_id == "0bd3ec5d088c17e7"
    network = load_network(folder, dtype=torch.float64)
    lattice = np.array([[0, 2.5, 2.5], [2.5, 0, 2.5], [2.5, 2.5, 0.3]])
    crystal = network.build_crystal(np.array([11, 17]), np.array([[0, 0, 0], [2.5, 0.1, 0]]), lattice)
    last = network(pack_crystals([crystal]))[-1]
    assert last.positions[1].tolist() == pytest.approx([2.3187599956, -0.0345354773, 0.2264444167], abs=1e-9)
    assert last.lattices[0, 2].tolist() == pytest.approx([2.5444182599, 2.6159823633, 0.3854894138], abs=1e-9)


def check_golden_prediction(folder: ModelFolder) -> None:
    network = load_network(folder, dtype=torch.float64)
    last = network(pack_crystals([golden.crystal for golden in load_crystals()]))[-1]
    arrays = load_arrays()
    assert np.abs(last.positions.detach().numpy() - arrays["pos_layer3"]).max() < FLOAT32
    assert np.abs(last.lattices.detach().numpy() - arrays["cell_layer3"]).max() < FLOAT32


def test_an_imported_checkpoint_predicts_with_the_ema_weights(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "best model (1).pt", golden_ema())
    folder = import_checkpoint(file, tmp_path / "models", None)
    assert folder.name == "best-model-1"
    check_golden_prediction(folder)
    assert folder.config["network"] == {
        "n_channels": 32,
        "n_layers": 3,
        "n_radial": 16,
        "n_elements": 118,
        "radial_cutoff": 30.0,
        "cutoff": 6.0,
        "max_neighbors": 50,
        "as_released": True,
    }
    card = (folder.path / "card.md").read_text()
    sha256 = folder.config["provenance"]["sha256"]
    assert re.fullmatch("[0-9a-f]{64}", sha256)
    assert sha256 in card
    assert "234,986" in card  # parameters
    assert folder.config["provenance"]["epoch"] == 12
    assert import_checkpoint(file, tmp_path / "models", None) == folder


def test_the_weights_in_model_would_be_noticed(tmp_path: Path) -> None:
    scaled = {name: 1.05 * value for name, value in golden_ema().items() if name != "radial_basis.rbf.offset"}
    folder = import_checkpoint(write_checkpoint(tmp_path / "wrong.pt", scaled), tmp_path / "models")
    with pytest.raises(AssertionError):
        check_golden_prediction(folder)


@pytest.mark.skipif(not SHARED_CHECKPOINT.exists(), reason="needs ../shared/golden/authors_checkpoint.pt")
def test_a_checkpoint_of_the_authors_code(tmp_path: Path) -> None:
    check_golden_prediction(import_checkpoint(SHARED_CHECKPOINT, tmp_path, "authors"))


@pytest.mark.parametrize("sizes", [(24, 2, 7, 118), (8, 4, 12, 95), (16, 1, 16, 119)])
def test_sizes_are_read_from_the_weights(tmp_path: Path, sizes: tuple[int, int, int, int]) -> None:
    h, n_layers, r, n_elements = sizes
    folder = import_checkpoint(write_checkpoint(tmp_path / "c.pt", make_ema(*sizes)), tmp_path / "models", "sized")
    network = load_network(folder)
    assert network.config == ReleasedConfig(n_channels=h, n_layers=n_layers, n_radial=r, n_elements=n_elements)
    crystal = network.build_crystal(np.array([n_elements - 1]), np.zeros((1, 3)), np.diag([4.0, 4.0, 4.0]))
    layers = network(pack_crystals([crystal]))
    assert len(layers) == n_layers
    assert layers[-1].lattices.isfinite().all()


class Payload:
    """Something that a pickle could run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


def test_a_checkpoint_with_code_is_refused_unrun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_checkpoint(tmp_path / "bad.pt", golden_ema(), scaler=Payload())
    with pytest.raises(ModelError, match=r"bad\.pt .*\(UnpicklingError\).*`e3relax models import FILE`"):
        import_checkpoint(file, tmp_path / "models")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"file\.pt .*\(EOFError\)"),
        (b"data_NaCl\n_cell_length_a 5.6\n", r"file\.pt .*\(UnpicklingError\)"),
        (b"PK\x03\x04 broken", r"file\.pt .*\(RuntimeError\)"),
        (None, r"file\.pt \(No such file .*\)"),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "file.pt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        import_checkpoint(file, tmp_path / "models")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "short.pt", make_ema(8, 1, 4, 20))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"short\.pt .*\(\w+Error\).*`e3relax models import FILE`"):
        import_checkpoint(file, tmp_path / "models")


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in make_ema(8, 1, 4, 20).items() if key != name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema": ...}, r"\('ema'\).*: model, optimizer, scaler, epoch.*models import FILE"),
        ({"ema": {}}, r"\('ema'\).*: ema, model, optimizer"),
        ({"ema": {"head.weight": torch.zeros(2)}}, r"1 of the checkpoint's 1 entries .*\(head.weight\)"),
        ({"ema": make_ema(8, 1, 4, 20) | {"atom_emb.embeddings.weight": "x"}}, "1 of the checkpoint's .*atom_emb"),
        (
            {"ema": make_ema(8, 1, 4, 20) | {"radial_basis.rbf.offset": torch.linspace(0, 2, 4)}},
            r"\(radial_basis.rbf.offset, 4 values\)",
        ),
        ({"ema": without("atom_emb.embeddings.weight")}, r"sizes .*\('atom_embedding.weight'\)"),
        ({"ema": without("lattice_scalar_emb.weight")}, r"1 missing \(axis_embedding.weight\)"),
        (
            {"ema": make_ema(8, 1, 4, 20) | {"lattice_blocks.0.axis_mix_scalar.bias": torch.zeros(4)}},
            r" 1 .*\(layers.0.mix_scalars.bias \[4\] .* \[3\]\)",
        ),
    ],
)
def test_checkpoints_of_other_networks_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write_checkpoint(tmp_path / "other.pt", make_ema(8, 1, 4, 20), **changes)
    with pytest.raises(ModelError, match=message):
        import_checkpoint(file, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "default", "small"])
def test_unusable_names_are_refused(tmp_path: Path, name: str) -> None:
    file = write_checkpoint(tmp_path / "c.pt", make_ema(8, 1, 4, 20))
    with pytest.raises(ModelError, match=rf"'{re.escape(name)}' .*--name "):
        import_checkpoint(file, tmp_path / "models", name)

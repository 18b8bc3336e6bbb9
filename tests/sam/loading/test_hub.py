from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from knowsam.errors import InputError
from knowsam.sam.loading.build import TINY, build_sam
from knowsam.sam.loading.hub import load_folder, load_hub
from support.small_sam import SIDE, small_sam


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_sam().save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on a machine without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize("hq", [False, True])
@torch.no_grad()
def test_a_folder_is_loaded_with_all_its_weights(tmp_path: Path, hq: bool) -> None:
    small_sam(hq=hq).save_pretrained(tmp_path / "sam")
    sam, report = load_folder(tmp_path / "sam", "mine")
    original = small_sam(hq=hq).state_dict()
    assert sam.state_dict().keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in sam.state_dict().items())
    assert report.sizes["class"] == ("SamHQModel" if hq else "SamModel")
    assert report.sha256 == sha256((tmp_path / "sam" / "model.safetensors").read_bytes()).hexdigest()


def test_loading_says_nothing_of_its_own(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    load_folder(folder, "mine")
    assert capfd.readouterr() == ("", "")


def test_shards_are_one_sum_that_any_of_them_changes(tmp_path: Path) -> None:
    small_sam().save_pretrained(tmp_path / "a", max_shard_size="50KB")
    small_sam(seed=1).save_pretrained(tmp_path / "b", max_shard_size="50KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    sums = [load_folder(tmp_path / name, "mine")[1].sha256 for name in "ab"]
    assert sums[0] != sums[1]
    next((tmp_path / "a").glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"it lists model-.*which is not there"):
        load_folder(tmp_path / "a", "mine")


def test_cached_weights_are_used_without_a_network(folder: Path, offline_cache: Path) -> None:
    snapshot = offline_cache / "models--facebook--sam-vit-base" / "snapshots" / "abc"
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    sam, report = load_hub("vit_b")
    assert torch.equal(sam.vision_encoder.pos_embed, small_sam().vision_encoder.pos_embed)
    assert (report.name, report.source) == ("vit_b", "facebook/sam-vit-base")
    assert sam.vision_encoder(torch.rand(1, 3, SIDE, SIDE))[0].isfinite().all()


def test_weights_that_cannot_be_had_are_told_with_the_way_out(offline_cache: Path) -> None:
    with pytest.raises(
        InputError, match=r"'vit_l' \(facebook/sam-vit-large\) was not found in the cache .*cache and .*use sam=tiny"
    ) as error:
        load_hub("vit_l")
    assert "\n" not in str(error.value)


def test_an_empty_directory_is_no_sam(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config.json was found.*\.pth"):
        load_folder(tmp_path, "mine")


def test_a_directory_of_another_model_is_no_sam(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    with pytest.raises(InputError, match="a model of type 'bert' was found, but expected one of sam, sam_hq"):
        load_folder(tmp_path, "mine")


def test_a_broken_configuration_is_told(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: it could not be read as JSON"):
        load_folder(folder, "mine")


def test_a_directory_without_weights_is_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights were found, but expected model\.safetensors"):
        load_folder(folder, "mine")


def test_a_weight_missing_left_over_or_of_another_shape_is_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["vision_encoder.pos_embed"]
    weights["vision_encoder.extra"] = torch.zeros(1)
    weights["vision_encoder.neck.layer_norm1.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError) as error:
        load_folder(folder, "mine")
    sentence = str(error.value)
    assert "1 keys missing (vision_encoder.pos_embed)" in sentence
    assert "1 keys unused (vision_encoder.extra)" in sentence
    assert "vision_encoder.neck.layer_norm1.bias ([3] instead of [32])" in sentence


def test_a_truncated_weight_file_is_told_in_one_sentence(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="could not be loaded") as error:
        load_folder(folder, "mine")
    assert "\n" not in str(error.value)


class Bomb:
    """Runs a command when it is unpickled by a loader that believes it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch canary",)


def test_a_folder_with_a_pickle_runs_no_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"a": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"sam: could not be loaded \(.*expected the whole files") as error:
        load_folder(folder, "mine")
    assert "\n" not in str(error.value)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(InputError, match="could not be loaded"):
        load_folder(folder, "mine")
    assert not Path("canary").exists()


@pytest.mark.parametrize("text", ['{"model_type": ["sam"]}', "[" * 3000, '{"model_type": ' + "9" * 5000 + "}", "null"])
def test_a_strange_configuration_is_a_sentence(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: ") as error:
        load_folder(folder, "mine")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("key", ["iou_head_depth", "num_hidden_layers", "mlp_dim"])
def test_a_configuration_of_endless_layers_is_a_sentence_and_not_built(folder: Path, key: str) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["mask_decoder_config"][key] = 10**30
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"'{key}' of 1000.* was found, but expected at most"):
        load_folder(folder, "mine")


def test_shards_lie_beside_their_list(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(InputError, match="lists files outside its folder"):
        load_folder(folder, "mine")


def test_a_directory_with_a_pickle_is_not_opened_and_nobody_is_told_to(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    shutil.copy(TINY / "config.json", tmp_path)
    torch.save({"weight": Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="a pickle that holds more than weights, which is not opened") as error:
        build_sam(str(tmp_path), (64, 64))
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_weights_of_a_sam_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    shutil.copy(TINY / "config.json", tmp_path)
    weights = load_file(TINY / "model.safetensors")
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name] * float("nan")}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"not finite was found in .* of '"):
        build_sam(str(tmp_path), (64, 64))

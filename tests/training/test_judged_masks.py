"""Masks of unlabelled images: closed but for a judge that asks for them, and then every description counts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from knowsam.config import Config
from knowsam.errors import InputError
from knowsam.methods import load_method
from knowsam.reporting.write import write_report
from knowsam.runs.folder import RunFolder
from knowsam.runs.record import read_run
from knowsam.training.data import RunData, hidden_masks_setting, load_data, plan_split, step_dataset
from knowsam.training.run import resume, train
from knowsam.types import IGNORE
from support.folders import make_folder
from support.training import run_config

JUDGES = ("agreement", "iou_head", "confidence", "oracle_rank", "oracle_rating")


def config_of(data: Path, judge: str, steps: int = 4, **train_settings: Any) -> Config:
    layer = {
        "method": "preference",
        "options": {"judge": judge},
        "data": {"labelled": 3},
        "train": {"pretrain": 0.5, **train_settings},
    }
    return run_config(data, layer, sam="tiny" if judge == "iou_head" else "none", steps=steps)


def loaded(config: Config) -> RunData:
    return load_data(config, *plan_split(config), True, None, hidden_masks_setting(config))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=7, n_masks=7)


@pytest.mark.parametrize("judge", JUDGES)
def test_masks_of_unlabelled_images_are_opened_by_oracles_alone(data: Path, judge: str) -> None:
    config = config_of(data, judge)
    folder, split = plan_split(config)
    assert split.unlabelled
    for stem in split.unlabelled:
        folder.cases[stem].label.write_bytes(b"broken")
    if judge.startswith("oracle"):
        with pytest.raises(InputError, match=r"masks/case_\d\.png"):
            loaded(config)
        return
    found = loaded(config)
    assert found.masks_judged == 0
    batch = step_dataset(config, found)[3]
    assert batch.unlabelled_image is not None
    assert batch.unlabelled_label is None
    assert not any(name == f"mask {stem}" for name in found.hashes() for stem in split.unlabelled)


def test_an_oracle_gets_the_masks_of_its_images(data: Path) -> None:
    config = config_of(data, "oracle_rank")
    found = loaded(config)
    assert found.masks_judged == len(found.unlabelled) == len(found.split.unlabelled)
    batch = step_dataset(config, found)[3]
    for name, image, label in zip(batch.unlabelled_stems, batch.unlabelled_image, batch.unlabelled_label, strict=True):
        index = found.split.unlabelled.index(name)
        assert torch.equal(found.unlabelled[index][0], image)
        assert torch.equal(found.unlabelled[index][1], label)
        assert f"mask {name}" in found.hashes()
    assert any("options.judge=oracle_rank" in note and str(found.masks_judged) in note for note in found.notes)


def test_masks_are_turned_with_their_images(data: Path) -> None:
    from knowsam.training.trainer import Trainer, seed_step

    trainer = Trainer(config_of(data, "oracle_rank"), RunFolder(data.parent / "run"), quiet=True)
    batch = trainer.batches[3]
    # An image that is its own mask: after the augmentation it still is, where anything is known.
    batch.unlabelled_image = batch.unlabelled_label[:, None].float() / 2
    seed_step(0, 3, 0)
    seen = trainer.augment(batch)
    known = seen.unlabelled_label != IGNORE
    assert (seen.unlabelled_label != batch.unlabelled_label).any()
    inside = (seen.unlabelled_image[:, 0] > 0.3) == (seen.unlabelled_label > 0)
    assert inside[known].float().mean() > 0.8  # bilinear and nearest neighbour differ at edges; holes are erased


def test_an_oracle_without_masks_is_one_sentence(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=7, n_masks=5)
    config = run_config(data, {"method": "preference", "options": {"judge": "oracle_rank"}, "train": {"pretrain": 0.5}})
    with pytest.raises(InputError) as caught:
        train(config, tmp_path / "run", quiet=True)
    sentence = str(caught.value)
    assert "no mask was found (2 of 2 unlabelled images have none)" in sentence
    assert "options.judge=oracle_rank expected" in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "run").exists()


def test_no_other_method_opens_them() -> None:
    from knowsam.methods import METHODS

    for name in METHODS.own:
        method = load_method(name)
        assert method.opens_hidden_masks(method.Options()) == ""


@pytest.mark.slow
def test_every_description_of_a_run_says_how_many_masks_were_read(data: Path, tmp_path: Path) -> None:
    counts = {}
    for judge in ("agreement", "oracle_rating"):
        folder = train(config_of(data, judge), tmp_path / judge, quiet=True).folder
        run = read_run(folder.path)
        counts[judge] = run.masks_judged
        assert json.loads(folder.data.read_text())["masks_judged"] == run.masks_judged
        write_report(folder.path)
        assert ("read for ranking" in folder.report.read_text()) == (judge == "oracle_rating")
    assert counts == {"agreement": 0, "oracle_rating": len(read_run(tmp_path / "oracle_rating").split.unlabelled)}
    # A changed mask is noticed where masks are read, when the run goes on.
    stem = read_run(tmp_path / "oracle_rating").split.unlabelled[0]
    mask = data / "masks" / f"{stem}.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert resume(tmp_path / "agreement", steps=6, quiet=True).finished
    with pytest.raises(InputError, match=f"mask {stem}"):
        resume(tmp_path / "oracle_rating", steps=6, quiet=True)


@pytest.mark.slow
def test_tables_of_a_comparison_and_the_card_of_an_export_say_it_too(data: Path, tmp_path: Path) -> None:
    from knowsam import api

    settings = {
        "data": {"size": 32, "val_fraction": 0.25},
        "train": {"steps": 4, "batch": "2+2", "pretrain": 0.5, "report": False},
        "preference": {"options": {"judge": "oracle_rank"}},
    }
    methods = ["supervised", "preference"]
    api.compare(data, tmp_path / "compare", methods, ["none"], [3], settings=settings, quiet=True)
    count = len(read_run(next((tmp_path / "compare" / "runs").glob("preference*"))).split.unlabelled)
    for name in ("table.md", "table.tex"):
        text = (tmp_path / "compare" / name).read_text()
        assert text.count(f"3 + {count} ranked") >= 3, name
        assert f"{count} masks of unlabelled images read for ranking" in text
    results = json.loads((tmp_path / "compare" / "table.json").read_text())
    assert [row["masks_judged"] for row in results["rows"]] == [0, count]
    for name, said in (("supervised", False), ("preference", True)):
        run = next((tmp_path / "compare" / "runs").glob(f"{name}*"))
        card = api.export(run, tmp_path / name / "student.pt2").card
        assert (f"masks read to rank candidate masks | {count}" in card.read_text()) == said

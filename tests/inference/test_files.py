"""Which files of a folder are predicted, and where their masks go."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.errors import InputError
from knowsam.inference.files import left_in_subfolders, list_inputs, listed_stems
from knowsam.inference.predictor import Predictor
from knowsam.reliability.predictions import predict_folder
from support.exports import make_student
from support.folders import make_image, save_picture


def pictures(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        save_picture(root / name, make_image(seed=number))
    return root


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(make_student(tmp_path_factory.mktemp("student") / "student.safetensors", "unet", (32, 32)), "cpu")


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_hidden_files_and_those_of_systems_are_no_images(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "._a.png", ".b.png")
    for name in ("Thumbs.db", ".DS_Store", "__MACOSX/c.png"):
        save_picture(tmp_path / "x.png", make_image())
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / name)
    assert list_inputs(tmp_path) == list_inputs(tmp_path, recursive=True) == [tmp_path / "a.png"]
    assert left_in_subfolders(tmp_path) is None


def test_subfolders_are_said(tmp_path: Path, predictor: Predictor) -> None:
    data = pictures(tmp_path / "data", "a.png", "day1/b.png", "day2/b.png", "day2/c/d.png")
    done = predict_folder(predictor, data, tmp_path / "out")
    assert below(tmp_path / "out") == {"a.png"}
    said = "3 subfolders with 3 images are not predicted (day1, day2, day2/c); --recursive does."
    assert done.notes == (said,)
    assert done.to_json()["notes"] == [said]
    (data / "a.png").unlink()
    with pytest.raises(InputError, match=r"no image was found.*3 images lie in subfolders, which --recursive takes"):
        predict_folder(predictor, data, tmp_path / "out")


def test_recursive_keeps_the_folders(tmp_path: Path, predictor: Predictor) -> None:
    data = pictures(tmp_path / "data", "a.png", "day1/b.png", "day2/b.png")
    # The output lies inside, and what a first call wrote there is no input of a second one.
    for _ in range(2):
        done = predict_folder(predictor, data, data / "out", overlay=True, uncertainty=True, recursive=True)
        assert done.notes == ()
        masks = {path for path in below(data / "out") if "_" not in path}
        assert masks == {"a.png", "day1/b.png", "day2/b.png", "cases.csv"}
        assert "day1/b_overlay.png" in below(data / "out")
        assert {case.case for case in done.cases} == {"a", "day1/b", "day2/b"}


def test_listed_names_with_and_without_their_folder(tmp_path: Path, predictor: Predictor) -> None:
    data = pictures(tmp_path / "data", "a.png", "day1/b.png", "day2/b.png", "day2/c.png")
    predict_folder(predictor, data, tmp_path / "one", only=["day2/b.png", "a"], recursive=True)
    assert below(tmp_path / "one") == {"a.png", "day2/b.png"}
    predict_folder(predictor, data, tmp_path / "two", only=["b"], recursive=True)
    assert below(tmp_path / "two") == {"day1/b.png", "day2/b.png"}
    done = predict_folder(predictor, data, tmp_path / "three", only=["c", "a"])
    assert len(done.failed) == 1
    assert "only: c have no image" in done.failed[0]


def test_a_listed_name_may_begin_with_a_hash(tmp_path: Path, predictor: Predictor) -> None:
    data = pictures(tmp_path / "data", "#3 eye.png", "b.png", "c.png")
    listed = tmp_path / "list.txt"
    listed.write_text("# those of today\n#3 eye\nb.png\n#c, not this one\n")
    assert listed_stems(listed, {"#3 eye", "b", "c"}) == {"#3 eye", "b"}
    done = predict_folder(predictor, data, tmp_path / "out", only=listed)
    assert below(tmp_path / "out") == {"#3 eye.png", "b.png"}
    assert done.failed == ()


def test_output_over_the_images_is_refused(tmp_path: Path, predictor: Predictor) -> None:
    data = pictures(tmp_path / "data", "a.png", "day1/b.png")
    for recursive in (False, True):
        with pytest.raises(InputError, match="the images themselves lie there"):
            predict_folder(predictor, data, data, recursive=recursive)

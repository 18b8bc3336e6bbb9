from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from knowsam.errors import InputError
from knowsam.io import IMAGE_SUFFIXES, READERS, file_stem, file_suffix, read_image, write_label
from knowsam.io import write_probabilities as write_probs
from knowsam.storage import whole_file
from support.folders import make_image, save_picture


def test_file_stem_knows_double_suffix_and_keeps_other_dots() -> None:
    assert file_stem("x/a.nii.gz") == "a"
    assert file_stem("B.PNG") == "B"
    assert file_stem("patient.001") == "patient.001"
    assert file_stem("patient.001.png") == "patient.001"
    assert file_suffix(".png") is None
    assert file_suffix("a.NII.GZ") == ".nii.gz"


def test_readers_table_covers_the_suffixes() -> None:
    assert set(IMAGE_SUFFIXES) == set(READERS)
    assert {".png", ".jpg", ".tif", ".bmp", ".nii", ".nii.gz", ".h5"} <= set(READERS)


@pytest.mark.subprocess
def test_import_is_light() -> None:
    heavy = "{'torch', 'nibabel', 'h5py', 'tifffile', 'PIL', 'pandas'}"
    code = f"import sys, knowsam.io, knowsam.inspection.check; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_and_missing_files_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a known image format"):
        read_image(tmp_path / "a.webp")
    for suffix in IMAGE_SUFFIXES:
        with pytest.raises(InputError, match="no such file"):
            read_image(tmp_path / f"missing{suffix}")
        (tmp_path / f"empty{suffix}").touch()
        with pytest.raises(InputError, match=r"empty.*0 bytes"):
            read_image(tmp_path / f"empty{suffix}")


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_half_way() -> None:
        with whole_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_write_refuses_what_does_not_fit(tmp_path: Path) -> None:
    image = read_image(save_picture(tmp_path / "a.png", make_image((6, 8))))
    with pytest.raises(InputError, match="shape"):
        write_label(tmp_path / "out", np.zeros((8, 6), np.uint8), image)
    with pytest.raises(InputError, match="float"):
        write_label(tmp_path / "out", np.zeros((6, 8), np.float32), image)
    with pytest.raises(InputError, match=r"-1\.\."):
        write_label(tmp_path / "out", np.full((6, 8), -1), image)
    with pytest.raises(InputError, match="probabilities"):
        write_probs(tmp_path / "out", np.zeros((6, 8), np.float32), image)


def test_dots_in_output_names_survive(tmp_path: Path) -> None:
    image = read_image(save_picture(tmp_path / "patient.001.png", make_image((6, 8))))
    assert write_label(tmp_path / "out.001", np.zeros((6, 8), int), image).name == "out.001.png"

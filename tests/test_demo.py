"""The demo with a few steps: everything it promises is there, and it can run again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.examples import load_example

pytest.importorskip("nilearn", reason="the demo's data come with the extra `demo`")


@pytest.mark.slow
def test_demo_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nibabel as nib
    from PIL import Image

    from knowsam.evaluation.metrics import dice_score

    demo, out = load_example("mri_demo"), tmp_path / "demo-run"
    for _ in range(2):
        dice = demo.run_demo(out, steps=2, size="32x32", slices=14)
    assert list(dice) == list(demo.NAMES.values())
    assert json.loads((out / "summary.json").read_text())["dice"] == dice
    report = (out / "report.md").read_text()
    assert all(name in report for name in dice)
    printed = capsys.readouterr().out
    assert "overlays.png" in printed

    assert len(list((out / "data" / "images").iterdir())) == 14
    annotated = {path.name for path in (out / "data" / "masks").iterdir()}
    assert len(annotated) == 6
    truth = {path.name: np.asarray(Image.open(path)) for path in (out / "truth").iterdir()}
    assert set(np.unique(np.stack(list(truth.values())))) == {0, 1, 2}

    # The numbers of the table are those of the written predictions: the same path a user would take.
    rest = sorted(truth.keys() - annotated)
    for method, name in (("supervised", "student"), ("knowsam", "fused")):
        predicted = np.stack([np.asarray(Image.open(out / "predictions" / method / slice_)) for slice_ in rest])
        expected = np.stack([truth[slice_] for slice_ in rest])
        for index, tissue in enumerate(demo.CLASSES[1:], start=1):
            found = dice_score(predicted == index, expected == index)
            assert found == pytest.approx(dice[demo.NAMES[name]][tissue])

    volume = nib.load(out / "knowsam_volume.nii.gz")
    assert volume.shape == (160, 192, 14)
    np.testing.assert_array_equal(
        np.rot90(np.asarray(volume.dataobj)[:, :, 3]), Image.open(out / "predictions" / "knowsam" / "axial_003.png")
    )


def test_demo_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(SystemExit, match="files of something else"):
        load_example("mri_demo").run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").exists()

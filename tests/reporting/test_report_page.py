"""The page about a small run: its numbers, its safety, what it says where something is missing."""

from __future__ import annotations

import re
import shutil
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from knowsam import presentation
from knowsam.evaluation.metrics import dice_score
from knowsam.evaluation.scoring import score_cases
from knowsam.inference.forward import predict_all
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image, read_label
from knowsam.presentation import text as words
from knowsam.reporting import write as report_package
from knowsam.reporting.cases import DataRecord, summarise_data
from knowsam.reporting.write import write_report
from knowsam.runs.cases import open_cases
from knowsam.runs.folder import RunFolder
from knowsam.runs.next_steps import baseline_command, next_commands
from knowsam.runs.record import read_run
from knowsam.runs.student_file import load_student
from knowsam.training.run import train
from support.cli import knowsam
from support.folders import make_folder
from support.training import make_run_with_cases, run_config

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_with_cases(tmp_path_factory.mktemp("report"), classes=["background", HOSTILE, "gut & more"])


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    written = write_report(run)
    assert written.left_out is None
    assert written.path == run / "report.html"
    return written.path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """All start tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_sections_stand_in_order(page: str) -> None:
    order = [attributes["id"] for tag, attributes in Elements(page).tags if tag == "h2"]
    assert order == ["summary", "curves", "classes", "cases", "losses", "data", "settings", "next"]


def test_nothing_comes_from_outside_and_no_script_runs(page: str) -> None:
    elements = Elements(page)
    assert "script" not in {tag for tag, _ in elements.tags}
    for _, attributes in elements.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert HOSTILE not in page
    assert HOSTILE in elements.text  # shown as it is
    assert len(page.encode()) < 3_000_000


def test_every_picture_has_an_alternative_text(page: str) -> None:
    elements = Elements(page).tags
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert len(pictures) == 15  # best, median and worst in five panels
    assert all(picture["alt"] for picture in pictures)
    drawings = sum(tag == "svg" for tag, _ in elements)
    labelled = [attributes for _, attributes in elements if attributes.get("role") == "img"]
    assert len(labelled) == drawings > 5
    assert all(attributes["aria-label"] for attributes in labelled)
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def scored_data(run: Path) -> DataRecord:
    student, info = load_student(run / "student.safetensors")
    opened = open_cases(RunFolder(run))
    forward = partial(predict_all, student)
    scored = list(score_cases(forward, opened.of("val"), info.preprocessing, opened.coding))
    return summarise_data(opened, scored)


def test_scores_of_the_cases_are_those_of_predict(run: Path, page: str) -> None:
    predictor, record = Predictor(run), read_run(run)
    data = scored_data(run)
    cases = data.cases
    folder = Path(record.config.data.path)
    assert [case.name for case in cases] == record.split.val
    for case in cases:
        predicted = predictor.predict(read_image(folder / "images" / f"{case.name}.png")).label
        truth = read_label(folder / "masks" / f"{case.name}.png").array
        assert case.dice == pytest.approx([dice_score(predicted == k, truth == k) for k in (1, 2)], abs=0.01)
    # As in the log, which was written from images in half precision.
    assert record.best is not None
    assert np.mean([case.mean for case in cases]) == pytest.approx(record.best.score, abs=1e-5)
    first = [case.dice[0] for case in cases]
    row = "".join(f"<td>{value:.3f}</td>" for value in (np.mean(first), np.std(first), min(first), np.median(first)))
    assert row in page
    # Each stripe of 32 rows / 3 classes: 11, 11, 10 rows.
    assert data.sets[0].name == "labelled"
    assert data.sets[0].shares == pytest.approx((11 / 32, 11 / 32, 10 / 32))
    assert data.sets[0].sizes == "all 32x40"
    assert {one.name: one.images for one in data.sets} == {"labelled": 6, "unlabelled": 3, "validation": 3}


def test_the_baseline_beside_the_run_is_found_and_named(run: Path, page: str) -> None:
    mine, base = read_run(run).best, read_run(run.parent / "base").best
    assert mine is not None
    assert base is not None
    assert "run base, best of 2" in page
    assert "same labels, size, steps, batch, seed" in page
    paired = np.subtract(mine.cases[mine.used], base.cases[base.used])
    error = 100 * float(paired.std(ddof=1)) / len(paired) ** 0.5
    assert f"<strong>{words.points_text(mine.score - base.score)} ± {error:.1f} points</strong>" in page


def test_labels_used_count_those_for_validation(page: str) -> None:
    text = " ".join(Elements(page).text.split())
    assert "Labels used 9 images 6 to learn from" in text
    assert "3 to choose the network; 3 without mask" in text


def test_of_a_volume_the_slice_with_most_errors_is_shown(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", n_images=10, n_masks=10, groups=["t"] * 6 + ["v"] * 4)
    (folder / "groups.csv").write_text(
        "stem,group,volume\n"
        + "".join(f"case_{i},{'t' if i < 6 else 'v'},{'t' if i < 6 else 'v'}\n" for i in range(10))
    )
    (folder / "val.txt").write_text("".join(f"case_{i}\n" for i in range(6, 10)))
    train(run_config(folder, {"method": "supervised", "options": {}}, steps=2), tmp_path / "run", quiet=True)
    predictor = Predictor(tmp_path / "run")
    (case,) = scored_data(tmp_path / "run").cases
    wrong = []
    for i in range(6, 10):
        predicted = predictor.predict(read_image(folder / "images" / f"case_{i}.png")).label
        wrong.append(int((predicted != read_label(folder / "masks" / f"case_{i}.png").array).sum()))
    assert case.slices == 4
    assert (case.telling.file, case.telling.number) == (int(np.argmax(wrong)), int(np.argmax(wrong)) + 1)
    page = write_report(tmp_path / "run").path.read_text()
    assert f"slice {case.telling.number} of 4" in page
    assert "<h3>Median" not in page  # one case is shown once


def test_a_folder_that_has_moved_is_said_and_the_rest_stands(run: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    folder = RunFolder(copy)
    config = folder.read_config()
    moved = config.model_copy(update={"data": config.data.model_copy(update={"path": "/nowhere/data"})})
    folder.rewrite_config(moved)
    ended = knowsam(capsys, "report", copy, "--out", tmp_path / "other.html")
    assert ended.code == 0
    assert "/nowhere/data: the data folder does not exist" in ended.out
    page = (tmp_path / "other.html").read_text()
    assert "Parts are missing" in page
    assert "<img" not in page
    assert 'id="curves"' in page
    assert 'id="losses"' in page
    assert "All cases" not in page


def test_a_run_without_validation_says_so(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data")
    train(run_config(data, {"data": {"val_fraction": 0}}, steps=2), tmp_path / "run", quiet=True)
    page = write_report(tmp_path / "run").path.read_text()
    assert "no validation images" in page
    assert 'id="classes"' not in page
    assert 'id="curves"' not in page
    assert 'id="losses"' in page


@pytest.mark.slow
@pytest.mark.subprocess
def test_report_needs_no_training_dependency(run: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from knowsam.reporting.write import write_report; write_report(sys.argv[1], sys.argv[2]);"
        "print([m for m in ('transformers', 'accelerate', 'kornia', 'matplotlib.pyplot') if m in sys.modules])"
    )
    out = str(run.parent / "page.html")
    ended = subprocess.run([sys.executable, "-c", code, str(run), out], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_mistakes_are_one_sentence(run: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    ended = knowsam(capsys, "report", tmp_path / "none")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "no run was found" in ended.err
    ended = knowsam(capsys, "report", run, "--out", tmp_path)
    assert ended.code == 2
    assert "a folder was found, but expected the name of a file" in ended.err
    ended = knowsam(capsys, "report", run, "--baseline", tmp_path / "none")
    assert ended.code == 2


def test_training_ends_with_the_report_and_what_to_type(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    data = make_folder(tmp_path / "data")
    config = run_config(data, {"method": "supervised", "options": {}, "train": {"report": True}}, steps=2)
    train(config, tmp_path / "run")
    said = capsys.readouterr().out
    for name in ("report.html", "student.safetensors", "metrics.jsonl"):
        assert str(tmp_path / "run" / name) in said
        assert (tmp_path / "run" / name).exists()
    for command in ("predict", "evaluate", "export", "suggest", "report"):
        assert f"  knowsam {command} " in said


def test_a_report_that_fails_does_not_fail_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(report_package, "write_report", broken)
    data = make_folder(tmp_path / "data")
    config = run_config(data, {"method": "supervised", "options": {}, "train": {"report": True}}, steps=2)
    assert train(config, tmp_path / "run").finished
    assert "not written (no space left); the run itself is whole" in capsys.readouterr().out


def test_commands_can_be_copied(tmp_path: Path) -> None:
    lines = [one.command for one in next_commands(Path("my runs/a"), "/data x", 40, unlabelled=True)]
    assert "knowsam suggest 'my runs/a' '/data x' -n 10" in lines
    assert "knowsam train --resume 'my runs/a' --steps 80" in lines
    assert not any("suggest" in one.command for one in next_commands(Path("a"), "d", 4, unlabelled=False))
    config = run_config(tmp_path, {"data": {"labelled": 3}})
    assert baseline_command(Path("runs/a"), config).command == (
        f"knowsam train {tmp_path} --out runs/a-supervised --method supervised --size 32x32 --steps 4 --batch 2+2"
        " --seed 0 sam=none --labelled 3 data.val_fraction=0.25 train.validate_every=2"
    )


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2: 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_every_theme() -> None:
    style = (Path(presentation.__file__).parent / "style.css").read_text()
    themes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(themes) == 3  # light, dark, paper
    for theme in themes:
        for text in ("ink", "muted", "link", *(f"series-{number}" for number in range(1, 5))):
            assert contrast(theme[text], theme["ground"]) >= 4.5, (text, theme)
        for ground in ("raised", "warn-ground"):
            assert min(contrast(theme["ink"], theme[ground]), contrast(theme["muted"], theme[ground])) >= 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_numbers_as_words() -> None:
    assert [words.duration_text(value) for value in (12, 95, 3600 * 3 + 60 * 20)] == ["12 s", "2 min", "3 h 20 min"]
    assert [words.share_text(value) for value in (0, 1e-7, 0.00001, 0.0007, 0.0126, 0.999, 1)] == [
        "0 %", "< 0.0001 %", "0.001 %", "0.07 %", "1.3 %", "99.9 %", "100 %",
    ]  # fmt: skip
    assert words.dice_text(float("nan")) == "\N{EN DASH}"

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from knowsam.comparison import loop
from knowsam.comparison.cell import CellJob
from knowsam.comparison.display import Shown, expected_seconds, last_step, seconds_left
from knowsam.comparison.grid import Cell
from knowsam.comparison.loop import compare
from knowsam.comparison.results import Results
from knowsam.errors import InputError
from knowsam.methods.registry import METHODS
from knowsam.methods.supervised import Supervised
from knowsam.runs.lock import folder_lock
from knowsam.storage import LOCK_FILE
from support.cli import knowsam
from support.comparisons import FakeRunner, write_cell
from support.folders import make_folder

SETTINGS = {"train": {"steps": 4, "batch": "2+2"}, "data": {"size": 32}}
NAMES = [f"{method}_sam-{sam}_labelled-2_seed-0" for method in ("supervised", "knowsam") for sam in ("none", "tiny")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=8, n_masks=6)


def do(data: Path, runner: FakeRunner, **changes: object) -> Results:
    values: dict = {"methods": ["supervised", "knowsam"], "labelled": [2], "settings": SETTINGS} | changes
    return compare(data, data.parent / "out", quiet=True, engine=runner, **values)


# --- going on ------------------------------------------------------------------------------------------------------


def test_every_cell_is_done_once_and_never_again(data: Path) -> None:
    runner = FakeRunner()
    first = do(data, runner)
    assert runner.asked == NAMES
    assert (first.failed, first.missing, first.interrupted) == ({}, (), False)
    assert first.rows[0].scores["dice"]["mean"].mean == pytest.approx(0.6)
    again = FakeRunner()
    assert do(data, again).to_json() == first.to_json()
    assert again.asked == []


def test_a_comparison_keeps_the_defaults_it_began_with(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    former = {"train": {**SETTINGS["train"], "flip": "both", "class_prior": False}, "sam": {"kd_weight": 0.2}}
    do(data, FakeRunner(knowsam="no luck today."), settings=SETTINGS | former)
    capsys.readouterr()
    runner, out = FakeRunner(), data.parent / "out"
    methods = ["supervised", "knowsam"]
    results = compare(data, out, methods, labelled=[2], settings=SETTINGS, engine=runner)
    assert runner.asked == NAMES[2:]
    assert {config.train.flip for config in results.grid.settings.values()} == {"both"}
    said = " ".join(capsys.readouterr().err.split())
    assert "began with, which is no longer the default: train.flip=both, train.class_prior=False, sam.kd_weight" in said
    other = {"train": {**SETTINGS["train"], "flip": "none"}}
    with pytest.raises(InputError, match=r"train\.flip is 'both' there and 'none' here"):
        compare(data, out, methods, labelled=[2], settings=SETTINGS | other, quiet=True, engine=runner)


def test_what_may_flatter_every_score_is_asked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", n_images=8, n_masks=6)
    for path in [*(data / "images").iterdir(), *(data / "masks").iterdir()]:
        number = int(path.stem[-1])
        path.rename(path.with_name(f"p{number // 2}_{number}{path.suffix}"))
    compare(data, tmp_path / "out", ["supervised", "knowsam"], labelled=[2], settings=SETTINGS, engine=FakeRunner())
    assert " ".join(capsys.readouterr().err.split()).count("give --group-by prefix") == 1


def test_added_seeds_and_methods_are_the_only_ones_done(data: Path) -> None:
    do(data, FakeRunner(), methods=["supervised"])
    runner = FakeRunner()
    results = do(data, runner, seeds=[0, 1], sam=["none"])
    assert runner.asked == [
        "knowsam_sam-none_labelled-2_seed-0", "supervised_sam-none_labelled-2_seed-1",
        "knowsam_sam-none_labelled-2_seed-1",
    ]  # fmt: skip
    # The table is of all that is there, also of the SAM row of the first call.
    assert [(row.method, row.sam, row.done) for row in results.rows] == [
        ("supervised", "none", (0, 1)), ("supervised", "tiny", (0,)), ("knowsam", "none", (0, 1)),
    ]  # fmt: skip


def test_a_failed_cell_is_recorded_the_grid_goes_on_and_the_next_call_tries_again(data: Path) -> None:
    runner = FakeRunner(supervised="no luck today.")
    results = do(data, runner)
    assert runner.asked == NAMES
    assert {cell.name: reason for cell, reason in results.failed.items()} == dict.fromkeys(NAMES[:2], "no luck today.")
    assert [row.complete for row in results.rows] == [False, False, True, True]
    retried = FakeRunner()
    assert do(data, retried).failed == {}
    assert retried.asked == NAMES[:2]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (-signal.SIGKILL, "its process was killed (SIGKILL), probably because memory ran out; take a smaller --batch"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV; its output is in "),
        (3, "its process ended with exit code 3; its output is in "),
    ],
)
def test_a_process_that_dies_without_a_word_is_a_failed_cell(data: Path, code: int, sentence: str) -> None:
    results = do(data, FakeRunner(supervised=code))
    assert len(results.failed) == 2
    assert all(reason.startswith(sentence) for reason in results.failed.values())
    assert len(results.rows[2].done) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_grid_and_the_next_call_goes_on(data: Path, number: int) -> None:
    def interrupted(order: CellJob) -> int:
        os.kill(os.getpid(), number)
        return 130

    results = do(data, FakeRunner(knowsam=interrupted))
    assert results.interrupted
    assert [cell.name for cell in results.missing] == NAMES[2:]
    runner = FakeRunner()
    assert not do(data, runner).interrupted
    assert runner.asked == NAMES[2:]


def test_a_cell_that_finished_although_a_signal_came_counts(data: Path) -> None:
    def finished(order: CellJob) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        write_cell(order.cell, {"a": [(0.5, 2.0)]}, ["heart"])
        return 0

    runner = FakeRunner(knowsam=finished)
    results = do(data, runner)
    assert runner.asked == NAMES[:3]
    assert results.interrupted
    assert [cell.name for cell in results.missing] == NAMES[3:]


# --- refusing ------------------------------------------------------------------------------------------------------


def test_images_that_changed_since_are_told(data: Path) -> None:
    do(data, FakeRunner(), sam=["none"])
    run = data.parent / "out" / "runs" / NAMES[0]
    run.mkdir(parents=True)
    (run / "split.json").write_text(json.dumps({"labelled": ["other"], "unlabelled": [], "val": [], "test": []}))
    with pytest.raises(InputError, match=r"the images have changed since .*supervised_sam-none.* was trained"):
        do(data, FakeRunner())


def test_nothing_is_written_when_the_grid_is_refused(data: Path) -> None:
    with pytest.raises(InputError, match="9 labelled groups were asked for"):
        do(data, FakeRunner(), labelled=[9])
    with pytest.raises(InputError, match="neither test nor validation images with masks were found"):
        do(data, FakeRunner(), settings=SETTINGS | {"data": {"size": 32, "val_fraction": 0}})
    assert not (data.parent / "out").exists()


def test_two_calls_at_once_are_refused(data: Path) -> None:
    out = data.parent / "out"
    out.mkdir()
    with folder_lock(out), pytest.raises(InputError, match="another process is at work there"):
        do(data, FakeRunner())


def test_the_lock_of_a_dead_process_does_not_stay_in_a_finished_cell(data: Path) -> None:
    do(data, FakeRunner())
    lock = data.parent / "out" / "cells" / NAMES[0] / LOCK_FILE
    lock.touch()
    do(data, FakeRunner())
    assert not lock.exists()


def test_a_method_that_another_process_cannot_find_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Supervised):
        pass

    monkeypatch.setitem(METHODS, "mine", Mine)
    with pytest.raises(InputError, match="method mine: its class cannot be found from another process"):
        do(data, FakeRunner(), methods=["mine"])


# --- progress ------------------------------------------------------------------------------------------------------


def test_expected_seconds_are_those_of_the_most_similar_runs() -> None:
    took = {Cell("a", "none", "7", 0): 10.0, Cell("a", "none", "7", 1): 20.0, Cell("b", "tiny", "7", 0): 60.0}
    assert expected_seconds(Cell("a", "none", "3", 2), took) == 15
    assert expected_seconds(Cell("c", "tiny", "7", 0), took) == 60
    assert expected_seconds(Cell("c", "vit_b", "7", 0), took) == 30
    assert expected_seconds(Cell("c", "none", "7", 0), {}) is None


def test_seconds_left_add_up_the_rest_of_this_run_and_the_later_ones() -> None:
    cell, later = Cell("a", "none", "7", 0), [Cell("a", "none", "7", 1), Cell("b", "tiny", "7", 0)]
    took = {Cell("b", "tiny", "3", 0): 100.0}

    def after_10_s(share: float, first: float = 0.0) -> Shown:
        return Shown(cell, 1, 100, first, round(100 * share), 10.0)

    # A quarter in 10 s: 40 s in all, 30 left, then 40 and 100.
    assert seconds_left([after_10_s(0.25)], later, took) == pytest.approx(170)
    # Continued at one half: a quarter of the run in 10 s as well, a quarter left.
    assert seconds_left([after_10_s(0.75, first=0.5)], [], took) == pytest.approx(10)
    # Too early for its own speed: as long as the one that is known.
    assert seconds_left([after_10_s(0.01)], [], took) == pytest.approx(90)
    assert seconds_left([after_10_s(0.0)], later, {}) is None


def test_runs_side_by_side_share_what_is_left_and_the_longest_is_waited_for() -> None:
    cells = [Cell("a", "none", "7", seed) for seed in range(4)]
    # 30 s left of the first and 10 of the second, both of 40 in all, then two of 40: 120 in two rows.
    current = [Shown(cells[0], 1, 100, 0.0, 25, 10.0), Shown(cells[1], 2, 100, 0.0, 75, 30.0)]
    assert seconds_left(current, cells[2:], {}, side_by_side=2) == pytest.approx(60)
    assert seconds_left(current, [], {}, side_by_side=2) == pytest.approx(30)


def test_last_step_reads_past_a_line_that_is_being_written(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert last_step(log) == 0
    lines = [json.dumps({"step": step, "terms": {"loss": 0.1}}) for step in range(1, 401)]
    log.write_text("\n".join(lines) + '\n{"step": 40')
    assert last_step(log) == 400


def test_a_line_per_run_where_there_is_no_terminal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(data, data.parent / "out", ["supervised"], labelled=[2], settings=SETTINGS, engine=FakeRunner())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 runs"
    assert lines[1] == "[1/2] supervised, labelled 2, seed 0"
    assert lines[2].startswith("[1/2] supervised, labelled 2, seed 0: Dice 0.600, ")
    assert lines[3] == "[2/2] supervised + SAM tiny, labelled 2, seed 0"


def test_it_works_outside_the_main_thread_where_signals_are_somebody_elses(data: Path) -> None:
    found: list[Results] = []
    thread = threading.Thread(target=lambda: found.append(do(data, FakeRunner())))
    thread.start()
    thread.join()
    assert found[0].missing == ()


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    """Lets the command use a runner that only pretends."""
    runner = FakeRunner()
    defaults = list(loop.compare.__defaults__ or ())
    monkeypatch.setattr(loop.compare, "__defaults__", (*defaults[:-1], runner))
    return runner


def test_command_runs_the_grid_and_prints_the_table(
    data: Path, pretend: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--size", "32", "--steps", "4", "--batch", "2+2", "--labelled", "2")
    command = ("compare", data, "--methods", "supervised, knowsam", *small, "--out", data.parent / "out")
    ended = knowsam(capsys, *command, "train.lr=0.01", "knowsam.options.ugda_start=0.5")
    assert ended.code == 0, ended.err
    assert pretend.asked == NAMES
    assert "Dice, mean ± SD over seeds" in ended.out
    assert "knowsam: two students" in " ".join(ended.out.split())
    assert "with settings of its own: options.ugda_start=0.5." in " ".join(ended.out.split())
    out = data.parent / "out"
    names = ("table.csv", "table.json", "table.md", "table.tex", "figure.png", "figure.pdf")
    assert all((out / name).is_file() for name in names)

    before = (out / "table.json").read_text()
    (out / "table.json").unlink()
    as_json = knowsam(capsys, "compare", out, "--table-only", "--json")
    assert json.loads(as_json.out) == json.loads(before) == json.loads((out / "table.json").read_text())
    assert knowsam(capsys, "compare", out, "--table-only", "--quiet") == (0, "", "")

    refused = knowsam(capsys, *command, "train.lr=0.02", "knowsam.options.ugda_start=0.5")
    assert refused.code == 2
    assert "train.lr is 0.01 there and 0.02 here" in refused.err


def test_command_says_what_failed_and_ends_with_1(
    data: Path, pretend: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.codes = {"knowsam": "it broke."}
    command = ("compare", data, "--methods", "supervised,knowsam", "--sam", "none", "--out", data.parent / "out")
    ended = knowsam(capsys, *command, "--quiet", "--steps", "4")
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err == "error: knowsam, labelled all, seed 0: it broke.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--methods", "supervised"), "compare: --out is missing"),
        (("--out", "x"), "compare: --methods is missing"),
        (("--methods", "supervised,", "--out", "x"), "--methods: 'supervised,' was found, but expected names"),
        (("--methods", "supervised", "--seeds", "0,a", "--out", "x"), "--seeds: '0,a' was found, but expected whole"),
        (("--methods", "supervised", "--sam", "tine", "--out", "x"), "sam: 'tine' was found"),
        (("--table-only",), "no comparison was found"),
    ],
)
def test_bad_command_is_one_sentence(
    data: Path, arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = knowsam(capsys, "compare", data, *arguments)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert sentence in ended.err

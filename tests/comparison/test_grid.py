from __future__ import annotations

import json
from pathlib import Path

import pytest

from knowsam.comparison.folder import CompareFolder, join_grids
from knowsam.comparison.grid import Cell, Grid, labelled_text, plan_grid, plan_splits
from knowsam.errors import InputError
from knowsam.methods.registry import METHODS
from support.folders import make_folder

SETTINGS = {"train": {"steps": 20, "batch": "2+2"}, "data": {"size": 32}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("grid") / "data", n_images=8, n_masks=6)


def plan(data: Path, *methods: str, **changes: object) -> Grid:
    values: dict = {"sam": ["none", "tiny"], "labelled": [2, 4], "seeds": [0, 1], "settings": SETTINGS} | changes
    return plan_grid(data, methods or ("supervised", "knowsam"), **values)


def test_grid_is_the_product_without_repetitions(data: Path) -> None:
    grid = plan(data, labelled=[2, "2", 4])
    assert len(grid.cells) == 2 * 2 * 2 * 2
    assert grid.cells[:3] == (
        Cell("supervised", "none", "2", 0), Cell("supervised", "tiny", "2", 0), Cell("knowsam", "none", "2", 0),
    )  # fmt: skip


def test_config_of_a_cell_holds_what_is_shared_and_what_varies(data: Path) -> None:
    grid = plan(data, settings=SETTINGS | {"knowsam": {"options": {"ugda_start": 0.5}}})
    config = grid.config(Cell("knowsam", "tiny", "2", 1))
    assert (config.method, config.sam.name, config.data.labelled, config.train.seed) == ("knowsam", "tiny", "2", 1)
    assert (config.train.steps, config.data.size, config.train.report) == (20, (32, 32), False)
    assert config.options["ugda_start"] == 0.5
    assert grid.own == {"knowsam": {"options.ugda_start": 0.5}}
    assert grid.config(Cell("supervised", "none", "all", 0)).data.labelled is None


def test_names_tell_cells_apart(data: Path, tmp_path: Path) -> None:
    assert Cell("ua_mt", "tiny", "10%", 3).name == "ua_mt_sam-tiny_labelled-10percent_seed-3"
    paths = [str(tmp_path / one / "sam") for one in "ab"]
    names = {Cell("m", path, "all", 0).name for path in paths}
    assert len(names) == 2
    assert all("/" not in name for name in names)


@pytest.mark.parametrize(
    ("given", "text"), [(7, "7"), ("7", "7"), (0.1, "10%"), ("10%", "10%"), (".07", "7%"), (None, "all")]
)
def test_equal_subsets_have_one_spelling(given: object, text: str) -> None:
    assert labelled_text(given) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sam": ["tinny"]}, "sam: 'tinny' was found, but expected one of auto, none, tiny"),
        ({"seeds": [-1]}, "--seeds: -1 was found, but expected whole numbers from 0"),
        ({"labelled": ["many"]}, "labelled is 'many'; expected a number of groups"),
        ({"seeds": []}, "--seeds: nothing was found"),
        ({"settings": {"train": {"seed": 3}}}, "the setting train.seed was found, but expected --seeds"),
        ({"settings": {"sam": "tiny"}}, "the setting sam.name was found, but expected --sam"),
        ({"settings": {"sam": {"name": "tiny"}}}, "the setting sam.name was found, but expected --sam"),
        ({"settings": {"knowsam": {"data": {"size": 64}}}}, "a setting knowsam.data was found"),
        ({"settings": {"knowsam": 3}}, "'knowsam=3' was found, but expected knowsam.KEY=VALUE"),
        ({"settings": {"train": {"stepps": 3}}}, "did you mean 'train.steps'"),
        ({"settings": {"options": {"network": "vnet"}}}, r"knowsam: .*options.network.*knowsam.options.NAME=VALUE"),
    ],
)
def test_bad_grid_is_told_before_training(data: Path, change: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan(data, **change)


def test_unknown_method_is_told_with_the_nearest_one(data: Path) -> None:
    with pytest.raises(InputError, match=r"method: 'knowsan' was found.*did you mean 'knowsam'"):
        plan(data, "supervised", "knowsan")


def test_more_labelled_groups_than_there_are_is_told(data: Path) -> None:
    with pytest.raises(InputError, match="9 labelled groups were asked for, and 5 training groups have masks"):
        plan_splits(plan(data, labelled=[2, 9]))


def test_the_labelled_subset_does_not_depend_on_the_method_and_the_smaller_lies_in_the_larger(data: Path) -> None:
    _, splits = plan_splits(plan(data))
    assert set(splits) == {("2", 0), ("2", 1), ("4", 0), ("4", 1)}
    assert set(splits["2", 0].labelled) < set(splits["4", 0].labelled)
    assert splits["2", 0].val == splits["4", 0].val


def test_written_grid_reads_back_equal(data: Path, tmp_path: Path) -> None:
    folder, grid = CompareFolder(tmp_path), plan(data)
    folder.write(grid)
    assert folder.read() == grid


def test_a_call_may_add_methods_seeds_and_subsets(data: Path, tmp_path: Path) -> None:
    folder = CompareFolder(tmp_path)
    folder.write(plan(data, "supervised", labelled=[2], seeds=[0]))
    joined = join_grids(folder, plan(data, "knowsam", labelled=[4], seeds=[2]))
    assert {cell.method for cell in joined.cells} == {"supervised", "knowsam"}
    assert len(joined.cells) == 4
    assert set(joined.settings) == {"supervised", "knowsam"}


@pytest.mark.parametrize(("first", "second"), [("supervised", "bcp"), ("bcp", "supervised")])
def test_methods_may_differ_in_what_a_paper_demands_and_in_nothing_else(
    data: Path, tmp_path: Path, first: str, second: str
) -> None:
    paper = SETTINGS | {"preset": "paper"}
    folder = CompareFolder(tmp_path)
    folder.write(plan(data, first, settings=paper))
    joined = join_grids(folder, plan(data, second, settings=paper))
    pretrain = {name: config.train.pretrain for name, config in joined.settings.items()}
    assert pretrain == {"supervised": 0.0, "bcp": 0.25}
    folder.write(plan(data, "supervised", settings=paper))
    other = plan(data, second, settings=paper | {"train": SETTINGS["train"] | {"pretrain": 0.5}})
    with pytest.raises(InputError, match=r"train\.pretrain is 0\.0 there and 0\.5 here"):
        join_grids(folder, other)


@pytest.mark.parametrize("preset", ["short", "paper"])
@pytest.mark.parametrize(("first", "second"), [("unimatch", "sss"), ("sss", "unimatch")])
def test_a_method_that_prompts_sam_its_own_way_joins_others_and_no_other_prompt_does(
    data: Path, tmp_path: Path, preset: str, first: str, second: str
) -> None:
    settings = SETTINGS | {"preset": preset}
    folder = CompareFolder(tmp_path)
    folder.write(plan(data, first, settings=settings))
    joined = join_grids(folder, plan(data, second, settings=settings))
    assert {name: config.sam.prompt for name, config in joined.settings.items()} == {
        "unimatch": "mask",
        "sss": "box+point",
    }
    folder.write(plan(data, "unimatch", settings=settings))
    with pytest.raises(InputError, match=r"sam\.prompt is 'mask' there and 'box' here"):
        join_grids(folder, plan(data, second, settings=settings | {"sam": {"prompt": "box"}}))


def test_footnotes_stay_with_the_comparison_and_those_of_an_older_one_are_found(data: Path, tmp_path: Path) -> None:
    folder = CompareFolder(tmp_path)
    folder.write(plan(data, "supervised"))
    joined = join_grids(folder, plan(data, "bcp"))
    assert joined.footnotes["supervised"].startswith("its labelled images fill")
    assert joined.footnotes["bcp"].startswith("its unlabelled images are augmented weakly")
    folder.write(joined)
    values = json.loads(folder.grid.read_text())
    del values["footnotes"]
    folder.grid.write_text(json.dumps(values))
    assert folder.read().footnotes == joined.footnotes


@pytest.mark.parametrize("key", ["Mine", "FULL", "RELATIVE"])
def test_settings_of_a_method_in_a_file_are_given_under_its_class_or_its_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    (tmp_path / "own.py").write_text(
        "from knowsam.methods.supervised import Supervised\nclass Mine(Supervised):\n    footnote = 'ours'\n"
    )
    monkeypatch.chdir(tmp_path)
    full = f"{tmp_path.resolve()}/own.py:Mine"
    key = {"FULL": full, "RELATIVE": "own.py:Mine"}.get(key, key)
    grid = plan(data, "own.py:Mine", "supervised", settings=SETTINGS | {key: {"options": {"network": "vnet"}}})
    assert list(grid.settings) == [full, "supervised"]
    assert [config.options["network"] for config in grid.settings.values()] == ["vnet", "unet"]
    assert grid.own == {full: {"options.network": "vnet"}}
    assert grid.footnotes[full] == "ours"
    assert str(grid.cells[0]) == "own.py:Mine, labelled 2, seed 0"
    assert "/" not in grid.cells[0].name
    assert ":" not in grid.cells[0].name


@pytest.mark.parametrize(
    ("methods", "changes", "sentence"),
    [
        (("supervised",), {"train": {"lr": 0.5}}, "train.lr is 0.002 there and 0.5 here; expected the same"),
        (("knowsam",), {"train": {"lr": 0.5}}, "train.lr is 0.002 there and 0.5 here"),
        (("supervised",), {"options": {"network": "vnet"}}, "options.network is 'unet' there and 'vnet' here"),
    ],
)
def test_a_call_with_other_settings_is_refused(
    data: Path, tmp_path: Path, methods: tuple[str, ...], changes: dict, sentence: str
) -> None:
    folder = CompareFolder(tmp_path)
    folder.write(plan(data, "supervised"))
    changed = {key: SETTINGS.get(key, {}) | changes.get(key, {}) for key in SETTINGS | changes}
    with pytest.raises(InputError, match=sentence):
        join_grids(folder, plan(data, *methods, settings=changed))


def test_settings_that_change_no_score_may_differ(data: Path, tmp_path: Path) -> None:
    folder = CompareFolder(tmp_path)
    folder.write(plan(data, "supervised"))
    changed = SETTINGS | {"data": {"size": 32, "workers": 1}}
    assert len(join_grids(folder, plan(data, "supervised", settings=changed)).cells) == 8


def test_other_data_and_a_folder_of_something_else_are_refused(data: Path, tmp_path: Path) -> None:
    folder = CompareFolder(tmp_path / "out")
    folder.write(plan(data, "supervised"))
    other = make_folder(tmp_path / "other")
    with pytest.raises(InputError, match=r"a comparison on .*data was found, but .*other was asked for"):
        join_grids(folder, plan(other, "supervised"))
    with pytest.raises(InputError, match="other files were found, but expected a new or empty folder or that of"):
        join_grids(CompareFolder(other), plan(other, "supervised"))


def test_a_folder_without_comparison_and_a_broken_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no comparison was found \(no compare.json\)"):
        CompareFolder(tmp_path).read()
    (tmp_path / "compare.json").write_text('{"format": 9}')
    with pytest.raises(InputError, match=r"no grid could be read \(format 9\)"):
        CompareFolder(tmp_path).read()


def test_a_grid_with_a_method_of_ones_own_is_read_where_that_is_unknown(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CompareFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "mine", METHODS["supervised"])
        folder.write(plan(data, "mine", "supervised"))
    assert folder.read().settings["mine"].train.steps == 20

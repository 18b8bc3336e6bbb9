"""Methods and networks of a user's own: by file, by entry point, by a Python call; whole paths and every refusal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from knowsam.config import resolve_config
from knowsam.errors import InputError
from knowsam.methods import METHODS, StudentMethod, load_method, register_method
from knowsam.networks import NETWORKS, ExternalNetwork, build_network, register_network
from knowsam.plugins import Registry, absolute, entry_point_names, load_from_file, names_file
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from knowsam.training.run import resume
from support import outside_code
from support.cli import knowsam, train_small
from support.folders import make_folder

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "own_method.py"
OWN = f"{EXAMPLE}:SelfTraining"
SMALL = ("--size", "32", "--steps", "2", "--batch", "2+2", "--sam", "none", "--labelled", "2", "--quiet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=8, n_masks=6)


def install(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, points: str, module: str = "") -> None:
    """An installed package, as far as `importlib.metadata` looks: its module and its entry points."""
    site = root / f"site_{name}"
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    (site / f"{name}.py").write_text(module)
    monkeypatch.syspath_prepend(site)


# --- whole paths ---------------------------------------------------------------------------------------------------


def score(capsys: pytest.CaptureFixture[str], data: Path, run: Path) -> str:
    """Predict the folder with a run, evaluate it, and give the table."""
    predictions = run.parent / "predictions"
    ended = knowsam(capsys, "predict", run, data / "images", "--out", predictions)
    assert ended.code == 0, ended.err
    truth = run.parent / "truth"
    truth.mkdir()
    for mask in sorted((data / "masks").iterdir())[:3]:
        (truth / mask.name).write_bytes(mask.read_bytes())
        assert (predictions / mask.name).exists()
    for extra in predictions.iterdir():
        if not (truth / extra.name).exists():
            extra.unlink()
    ended = knowsam(capsys, "evaluate", predictions, truth)
    assert ended.code == 0, ended.err
    return ended.out


def test_a_method_in_a_file_trains_predicts_and_is_scored(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLE.parent)
    run = tmp_path / "run"
    ended = train_small(capsys, data, run, "--method", "own_method.py:SelfTraining", "options.weight=0.5",
                        "train.pretrain=0", "train.log_every=1")  # fmt: skip
    assert ended.code == 0, ended.err
    monkeypatch.chdir(tmp_path)  # the run holds the full path
    config = RunFolder(run).read_config()
    assert (config.method, config.options["weight"], config.options["confidence"]) == (OWN, 0.5, 0.9)
    assert "student_pseudo" in RunFolder(run).read_metrics()[0]["terms"]
    assert "Dice" in score(capsys, data, run)
    assert resume(run, steps=3, quiet=True).steps == 3


def test_reading_a_run_does_not_run_the_file_of_its_method(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.py"
    own.write_text(EXAMPLE.read_text())
    run = tmp_path / "run"
    assert train_small(capsys, data, run, "--method", f"{own}:SelfTraining").code == 0
    own.write_text("raise RuntimeError('run')\n")
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    assert knowsam(capsys, "report", run, "--quiet").code == 0
    ended = knowsam(capsys, "train", "--resume", run, "--steps", "3")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"{own}: it could not be run (RuntimeError: run, line 1), but expected a file that defines" in ended.err


@pytest.mark.slow
@pytest.mark.subprocess
def test_compare_takes_a_method_in_a_file_with_its_own_settings(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    ended = knowsam(capsys, "compare", data, "--methods", f"supervised,{OWN}", "--out", out, *SMALL,
                    "SelfTraining.options.weight=0.25", "train.report=false")  # fmt: skip
    assert ended.code == 0, ended.err
    table = (out / "table.md").read_text()
    assert "| own_method.py:SelfTraining | \N{EN DASH} | 2 | 1 |" in table
    assert "own_method.py:SelfTraining: with settings of its own: options.weight=0.25." in table
    runs = sorted(path.name for path in (out / "runs").iterdir())
    assert len(runs) == 2
    assert runs[0].startswith("own_method.py-SelfTraining-")
    assert RunFolder(out / "runs" / runs[0]).read_config().options["weight"] == 0.25


@pytest.mark.slow
@pytest.mark.subprocess
def test_an_entry_point_names_a_method_everywhere(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an installed package is: found by every process. Children get the path through the environment.
    install(tmp_path, monkeypatch, "offered", "[knowsam.methods]\ngentle = offered:Gentle\n",
            Path(outside_code.__file__).read_text())  # fmt: skip
    run, out = tmp_path / "run", tmp_path / "out"
    ended = train_small(capsys, data, run, "--method", "gentle")
    assert ended.code == 0, ended.err
    assert "Dice" in score(capsys, data, run)
    ended = knowsam(capsys, "compare", data, "--methods", "gentle", "--out", out, *SMALL)
    assert ended.code == 0, ended.err
    assert "gentle: at half the weight." in (out / "table.md").read_text()
    assert "gentle" not in METHODS


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_registered_method_and_a_registered_network_go_all_the_way(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "gentle", outside_code.Gentle)
    monkeypatch.setitem(NETWORKS, "stripes", outside_code.Stripes)
    run, out = tmp_path / "run", tmp_path / "out"
    own = ("options.network=stripes", "options.network_arguments={width: 3}")
    ended = train_small(capsys, data, run, "--method", "gentle", *own)
    assert ended.code == 0, ended.err
    student, info = load_student(RunFolder(run).student)
    assert info.network["name"] == "stripes"
    assert student.network.layers[0].out_channels == 3
    assert "Dice" in score(capsys, data, run)
    ended = knowsam(capsys, "compare", data, "--methods", "gentle,mean_teacher", "--out", out, *SMALL, *own)
    assert ended.code == 0, ended.err
    assert (out / "table.md").read_text().count("stripes") >= 2


def test_a_network_that_another_process_cannot_find_is_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "stripes", lambda channels, classes: outside_code.Stripes(channels, classes))
    ended = knowsam(capsys, "compare", data, "--methods", "supervised", "--out", tmp_path / "out", *SMALL,
                    "options.network=stripes")  # fmt: skip
    assert ended.code == 2
    assert "network stripes: its factory cannot be found from another process" in ended.err
    assert not (tmp_path / "out").exists()


# --- the registry --------------------------------------------------------------------------------------------------


def test_a_registry_imports_what_is_looked_up_and_nothing_else() -> None:
    registry: Registry[type] = Registry("thing", "class", "no.such.group", {"path": "pathlib:Path", "absent": "no:No"})
    assert list(registry) == ["path", "absent"]
    assert "absent" in registry
    assert registry["path"] is Path
    with pytest.raises(ModuleNotFoundError):
        registry["absent"]
    assert registry.load("unknown") is None


def test_what_is_registered_comes_before_the_packages_own_and_can_be_taken_back() -> None:
    registry: Registry[type] = Registry("thing", "class", "no.such.group", {"a": Path})
    registry["a"] = registry["b"] = dict
    assert (registry.load("a"), registry.load("b"), len(registry)) == (dict, dict, 2)
    assert registry.names() == ["a", "b"]
    assert registry.picklable("a") == {"a": dict}
    del registry["a"]
    assert registry["a"] is Path
    assert registry.picklable("a") == {}


def test_a_registry_knows_what_packages_offer_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "offered", "[things]\nnew = offered:New\n", "raise RuntimeError")
    registry: Registry[type] = Registry("thing", "class", "things", {"a": Path})
    assert registry.names() == ["a", "new"]
    assert registry.is_known("new")
    assert "new" not in registry
    assert not registry.is_known("other")


def test_a_registered_entry_that_cannot_be_pickled_is_told() -> None:
    registry: Registry[type] = Registry("thing", "factory", "no.such.group", {})
    registry["local"] = lambda: Path
    with pytest.raises(InputError, match="thing local: its factory cannot be found from another process"):
        registry.picklable("local")


def test_register_network_takes_a_free_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NETWORKS, "registered", {})
    for taken in ("unet", "monai:UNet"):
        with pytest.raises(InputError, match=f"the name '{taken}' was given, but expected one that is free: unet, "):
            register_network(taken, outside_code.Stripes)
    register_network("stripes", outside_code.Stripes)
    assert isinstance(build_network("stripes", 1, 2), ExternalNetwork)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "file"),
    [("a.py:B", True), ("/x y/a.py:B", True), ("knowsam", False), ("a.py", False), ("a.py:", False),
     ("a:B", False), ("monai:UNet", False), ("a.py:b c", False)],
)  # fmt: skip
def test_names_file(text: str, file: bool) -> None:
    assert names_file(text) == file


def test_absolute_changes_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a.py:B") == f"{tmp_path.resolve()}/a.py:B"
    assert absolute("knowsam") == "knowsam"


def test_a_file_is_run_once(tmp_path: Path) -> None:
    file = tmp_path / "twice.py"
    file.write_text("class A:\n    pass\n\n\nclass B:\n    pass\n")
    first = load_from_file(f"{file}:A")
    assert load_from_file(f"{file}:A") is first
    assert load_from_file(f"{file}:B").__module__ == first.__module__


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no file was found, but expected the Python file of Mine"),
        ("x = 1\nthis is no Python\n", r"it could not be run \(SyntaxError: .*, line 2\), but expected a file that"),
        ("x = 1\n1 / 0\n", r"it could not be run \(ZeroDivisionError: division by zero, line 2\)"),
        ("class Other:\n    pass\n", "no Mine was found, but expected a class of that name; there are Other; correct"),
        ("Mine = 3\n", "method: 3 was found under '.*', but expected a class that inherits from"),
    ],
)
def test_a_file_that_will_not_do_is_one_sentence(text: str | None, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=sentence) as error:
        load_method(f"{file}:Mine")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_what_packages_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "offered", "[knowsam.methods]\ngentle = offered:Gentle\n")
    assert "gentle" in entry_point_names("knowsam.methods")
    with pytest.raises(
        InputError, match=r"expected one of supervised, .*, gentle, or FILE.py:CLASS; did you mean 'gen"
    ):
        resolve_config({"method": "gentel"})


@pytest.mark.parametrize(
    ("module", "reason"),
    [("raise ValueError('no luck')", "ValueError: no luck"), ("x = 1", "AttributeError: ")],
)
def test_a_package_that_cannot_be_loaded_is_named(
    module: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[knowsam.methods]\nbroken = broken_{0}:A\n[knowsam.networks]\nbroken = broken_{0}:A\n"
    name = f"broken_{len(module)}"
    install(tmp_path, monkeypatch, name, points.format(len(module)), module)
    for load in (load_method, lambda name: build_network(name, 1, 2)):
        with pytest.raises(InputError, match=rf"'broken' of the package {name} could not be loaded from .*\({reason}"):
            load("broken")


def test_two_packages_with_one_name_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        install(tmp_path, monkeypatch, f"offers_{name}", f"[knowsam.methods]\nsame = offers_{name}:A\n")
    with pytest.raises(InputError, match=r"'same' was found in the entry points .* of the package offers_"):
        load_method("same")


def test_a_name_of_this_package_is_not_replaced_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "taken", "[knowsam.methods]\ncps = taken:A\n", "raise RuntimeError")
    assert load_method("cps").__name__ == "CrossPseudoSupervision"


def test_register_method_refuses_what_is_no_method() -> None:
    with pytest.raises(InputError, match=r"NoMethod.* was found under 'mine', but expected a class that inherits from"):
        register_method("mine", outside_code.NoMethod)
    with pytest.raises(InputError, match="WithoutOptions under 'mine' has no Options"):
        register_method("mine", outside_code.WithoutOptions)
    with pytest.raises(InputError, match="has unlabelled_view 'week', but expected 'strong' or 'weak'"):
        register_method("mine", outside_code.WithAWrongView)
    with pytest.raises(InputError, match="expected a name, not a file"):
        register_method("mine.py:Mine", StudentMethod)
    assert "mine" not in METHODS

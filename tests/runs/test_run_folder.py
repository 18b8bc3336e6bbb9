from __future__ import annotations

import json
from pathlib import Path

import pytest

from knowsam.config import resolve_config
from knowsam.errors import InputError
from knowsam.runs.environment import describe_environment
from knowsam.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "a")


def test_create_writes_configuration_and_environment(folder: RunFolder) -> None:
    config = resolve_config({"train": {"steps": 3}})
    folder.create(config)
    assert folder.read_config() == config
    environment = json.loads(folder.environment.read_text())
    assert environment["packages"]["torch"]
    assert "git_revision" in environment


def test_create_takes_an_empty_folder(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.create(resolve_config())
    assert folder.read_config() == resolve_config()


def test_create_refuses_a_folder_with_a_run_and_says_how_to_continue_it(folder: RunFolder) -> None:
    folder.create(resolve_config())
    with pytest.raises(InputError, match=f"another run was found.*--resume {folder.path}"):
        folder.create(resolve_config())


def test_create_refuses_a_folder_with_other_files(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "thesis.txt").write_text("do not overwrite")
    with pytest.raises(InputError, match="other files were found"):
        folder.create(resolve_config())
    assert not folder.config.exists()


def test_create_refuses_a_file(folder: RunFolder) -> None:
    folder.path.parent.mkdir(parents=True)
    folder.path.write_text("")
    with pytest.raises(InputError, match=str(folder.path)):
        folder.create(resolve_config())


def test_read_config_of_a_folder_without_run_names_it(folder: RunFolder) -> None:
    with pytest.raises(InputError, match=f"{folder.path}: no run was found"):
        folder.read_config()


def test_forget_after_drops_later_steps_and_half_a_line(folder: RunFolder) -> None:
    folder.create(resolve_config())
    for step in (1, 2, 3, 4):
        folder.append({"step": step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "te')  # the process was killed while it wrote
    folder.forget_after(2)
    assert folder.read_metrics() == [{"step": 1}, {"step": 2}]
    folder.append({"step": 3})
    assert [record["step"] for record in folder.read_metrics()] == [1, 2, 3]


def test_forget_after_without_any_measurement_does_nothing(folder: RunFolder) -> None:
    folder.forget_after(3)
    assert not folder.metrics.exists()


def test_environment_is_plain_json() -> None:
    found = describe_environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("content", ["", "method: knowsam\npreset: short\ndata:\n  path: DATA\n", "- a\n", "a: [\n"])
def test_an_empty_or_cut_configuration_is_not_taken_for_the_defaults(content: str, folder: RunFolder) -> None:
    folder.create(resolve_config())
    folder.config.write_text(content)
    with pytest.raises(InputError, match=r"config\.yaml: .*(empty or cut|expected `key: value`)"):
        folder.read_config()


@pytest.mark.parametrize(
    "line",
    [b'{"st\xffep": 1}', b'{"step": "one"}', b'{"step": 2, "terms": [1]}', b'{"step": 2, "terms": {"loss": "x"}}',
     b'{"step": 2, "validation": {"unet": {}}}', b'{"step"": 2}', b"[" * 50_000, b'{"step": ' + b"1" * 5000 + b"}",
     b'{"step": 2, "steps_per_s": []}'],
)  # fmt: skip
def test_a_broken_measurement_is_one_sentence_and_at_the_end_left_out(line: bytes, folder: RunFolder) -> None:
    folder.create(resolve_config())
    folder.append({"step": 1})
    with folder.metrics.open("ab") as file:
        file.write(line)
    assert folder.read_metrics() == [{"step": 1}]
    with folder.metrics.open("ab") as file:
        file.write(b'\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is no measurement") as error:
        folder.read_metrics()
    assert "\n" not in str(error.value)


def test_a_run_that_had_a_checkpoint_is_not_begun_again(folder: RunFolder) -> None:
    config = resolve_config({"train": {"steps": 100}})  # validates every 10 steps
    folder.create(config)
    folder.append({"step": 20})  # the first checkpoint may fail while training goes on to the second
    folder.check_never_saved(config)
    folder.append({"step": 21})
    with pytest.raises(InputError, match="no checkpoint was found, but expected one of this run, which has trained"):
        folder.check_never_saved(config)

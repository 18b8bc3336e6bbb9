"""Files are written whole, as UTF-8, and it is known beforehand whether they could be."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch

from knowsam import storage
from knowsam.errors import InputError
from knowsam.storage import (
    plain_cell,
    require_writable_file,
    require_writable_folder,
    whole_file,
    write_csv,
    write_json,
    write_text,
)

LATIN = os.fsdecode(b"caf\xe9_01")
"""A file name that is not UTF-8, as Python has it."""


def test_a_name_that_is_not_utf8_is_escaped_in_every_kind_of_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.html", f"<b>{LATIN} é</b>")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "<b>caf\\udce9_01 é</b>"
    write_csv(tmp_path / "a.csv", ["case"], [{"case": LATIN}])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["case"], ["caf\\udce9_01"]]
    write_json(tmp_path / "a.json", {"case": LATIN})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"case": LATIN}


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    for place in ("afile", "afile/deeper/still"):
        with pytest.raises(InputError, match=r"a file was found .*, but expected a folder to write to"):
            require_writable_folder(tmp_path / place)
        with pytest.raises(InputError, match="a file was found"):
            require_writable_file(tmp_path / place / "x.html", "x.html")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="but expected a folder"):
        require_writable_folder(tmp_path / "gone")


def test_a_closed_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def access(path: Path, mode: int) -> bool:
        asked.append(Path(path))
        assert mode == os.W_OK | os.X_OK
        return False

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(InputError, match=f"no permission to write into {tmp_path} was found"):
        require_writable_folder(tmp_path / "new" / "run")
    assert asked == [tmp_path]


def test_what_can_be_written_passes_and_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.html").write_text("old")
    require_writable_folder(tmp_path)
    require_writable_folder(tmp_path / "new" / "run")
    require_writable_file(tmp_path / "old.html", "x.html")
    monkeypatch.chdir(tmp_path)
    require_writable_folder("relative/run")
    require_writable_file("page.html", "x.html")
    assert [path.name for path in tmp_path.iterdir()] == ["old.html"]
    with pytest.raises(InputError, match=r"a folder was found.*add check\.html\."):
        require_writable_file(tmp_path, "check.html")


def test_an_error_while_writing_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error, whole_file(tmp_path / "a.txt") as temporary:
        fill(temporary)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError) as gone, whole_file(tmp_path / "no" / "a.txt") as temporary:
        temporary.write_text("text")
    assert gone.value.filename == str(tmp_path / "no" / "a.txt")


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, whole_file(tmp_path / "a.txt"):
        (tmp_path / "source.txt").read_text()
    assert error.value.filename == str(tmp_path / "source.txt")


def test_no_field_of_a_table_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    names = ["=1+1", "+a", "-a", "@a", "\ta", "'=a", "''+a", "a=1", "'a", "", "-1.5", "+3"]
    write_csv(path, ("case", "dice"), [{"case": name, "dice": -0.5} for name in names])
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = [row["case"] for row in rows]
    assert shown == [*(f"'{name}" for name in names[:7]), *names[7:]]
    assert [plain_cell(text) for text in shown] == names
    assert {row["dice"] for row in rows} == {"-0.5"}


# --- safe from a power cut, and from what dead processes leave -------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was made safe, and of files when they were renamed, in order."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        seen.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        seen.append("rename " + Path(target).name)
        replace(source, target)

    monkeypatch.setattr(storage.os, "fsync", sync)
    monkeypatch.setattr(storage.os, "replace", rename)
    return [] if not Path("/proc/self/fd").exists() else seen


def test_a_file_is_safe_before_it_gets_its_name_and_its_folder_afterwards(tmp_path: Path, synced: list[str]) -> None:
    write_text(tmp_path / "a.txt", "text")
    assert synced == [
        f"sync .writing-{storage.host_mark()}-{os.getpid()}-a.txt",
        "rename a.txt",
        f"sync {tmp_path.name}",
    ]


def test_files_made_safe_together_are_synced_once_each(tmp_path: Path, synced: list[str]) -> None:
    with storage.safe_at_end():
        for name in ("a", "b"):
            write_text(tmp_path / name, "text")
        assert synced == ["rename a", "rename b"]
    assert synced[2:] == ["sync a", "sync b", f"sync {tmp_path.name}"]


def test_in_the_background_files_get_their_names_in_order(tmp_path: Path, synced: list[str]) -> None:
    background = storage.Background()
    with background.taking():
        for name in ("a", "b"):
            write_text(tmp_path / name, "text")
    background.wait()
    assert [one for one in synced if one.startswith("rename")] == ["rename a", "rename b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_in_the_background_nothing_follows_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(storage.os, "fsync", full)
    background = storage.Background()
    with background.taking():
        for name in ("a", "b"):
            write_text(tmp_path / name, "text")
    with pytest.raises(OSError, match="No space left") as error:
        background.wait()
    assert error.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
    background.wait()  # it was told


def test_what_dead_processes_left_is_removed_and_what_others_write_stays(tmp_path: Path) -> None:
    host, dead = storage.host_mark(), 2**22 + 1
    mine = f".writing-{host}-{os.getpid()}-a"
    elsewhere = f".writing-{int(host, 16) ^ 1:08x}-{dead}-a"
    for name in (mine, elsewhere, f".writing-{host}-{dead}-checkpoint.pt", "checkpoint.pt"):
        (tmp_path / name).write_text("half")
    with storage.output_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine, elsewhere, "checkpoint.pt"])


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    weights = {"good": torch.zeros(2), "bad": torch.tensor([1.0, math.nan])}
    with pytest.raises(InputError, match=r"w\.safetensors: a weight that is not finite was found in bad"):
        storage.write_safetensors(tmp_path / "w.safetensors", weights, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"a": "\xff"}', b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_json_that_is_none_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: cannot be read .*; restore it\.$") as error:
        storage.read_json(tmp_path / "a.json", "restore it")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))

"""An interrupted torture goes on: what held is not tried twice, what did not is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability.ledger import Ledger, current_folder, main, read_entries


def test_what_held_is_not_tried_again_and_what_did_not_is(tmp_path: Path) -> None:
    path = tmp_path / "part.jsonl"
    first = Ledger(path)
    assert first.attempt("a", lambda: [], files=7) == []
    assert first.attempt("b", lambda: ["lost"]) == ["lost"]
    path.open("a").write('{"key": "c", "fil')  # killed while it wrote
    second = Ledger(path)
    assert second.attempt("a", lambda: ["never"]) == []
    assert second.attempt("b", lambda: []) == []
    assert read_entries(path) == {"a": (7, []), "b": (1, [])}


def test_the_table_is_of_the_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert current_folder().parent.name == ".torture"
    monkeypatch.setenv("KNOWSAM_TORTURE", str(tmp_path))
    Ledger(current_folder() / "train, faults.jsonl").attempt("kill at 3", lambda: ["lost"])
    main()
    assert capsys.readouterr().out == "train, faults: 1 tried, 1 did not hold\n    kill at 3: lost\n"

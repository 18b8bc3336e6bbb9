"""What a report calls terms and predictions: words of the run's own method."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.methods import METHODS
from knowsam.reporting.terms import prediction_name, term_name
from support import outside_code

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_method.py"


@pytest.mark.parametrize(
    ("method", "term", "words"),
    [
        ("knowsam", "unet_mix_pseudo", "U-Net: mixed images, pseudo-labels"),
        ("knowsam", "fused_sup", "Fused: against the truth"),
        ("bcp", "student_in", "Network: unlabelled pasted into labelled"),
        ("unimatch", "share_certain", "Share of pixels of which the weak view is certain"),
        ("cps", "sam_kd", "SAM: distillation into the students"),
        ("supervised", "loss", "Total loss"),
        ("supervised", "something_new", "something_new"),
    ],
)
def test_a_term_is_named_by_its_method(method: str, term: str, words: str) -> None:
    assert term_name(method, term) == words


def test_a_prediction_is_named_by_its_method() -> None:
    names = [prediction_name("knowsam", name) for name in ("fused", "unet", "vnet", "sam", "other")]
    assert names == ["fused", "U-Net", "V-Net", "SAM", "other"]
    assert prediction_name("cps", "student") == "network"


def test_a_registered_method_names_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(outside_code.Gentle):
        term_names = {"student_new": "Network: something new"}  # noqa: RUF012 - as a user writes it

    monkeypatch.setitem(METHODS, "named", Named)
    assert term_name("named", "student_new") == "Network: something new"
    assert term_name("named", "student_sup") == "Network: against the truth"


def test_a_method_in_a_file_is_not_run_for_its_words(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("raise RuntimeError\n")
    assert term_name(f"{file}:Mine", "student_pseudo") == "student_pseudo"
    assert term_name(f"{file}:Mine", "loss") == "Total loss"
    assert prediction_name(f"{file}:Mine", "fused") == "fused"

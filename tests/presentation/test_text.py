"""Counts as a reader expects them."""

from __future__ import annotations

import pytest

from knowsam.presentation.text import count_clause, count_text, size_summary


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (1176, "image", "1,176 images"), (2, "class", "2 classes")],
)
def test_a_noun_agrees_with_its_count(number: int, noun: str, text: str) -> None:
    assert count_text(number, noun) == text


def test_a_verb_agrees_with_its_count() -> None:
    assert count_clause(1, "image", "has no mask", "have no mask") == "1 image has no mask"
    assert count_clause(3, "image", "has no mask", "have no mask") == "3 images have no mask"


def test_sizes_that_all_differ_are_counted_once() -> None:
    assert size_summary([(2, 3), (4, 5)]) == "2 different, 2x3 to 4x5, most often 2x3 (1 time)"
    assert size_summary([(2, 3), (4, 5), (4, 5)]).endswith("most often 4x5 (2 times)")

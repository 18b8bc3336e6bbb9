from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from knowsam.data.discover import discover_coding, infer_coding
from knowsam.data.folder import scan_folder
from knowsam.data.labels import LabelCoding, LabelSpec
from knowsam.data.mask_values import MaskFacts, value_counts
from knowsam.data.split import make_split
from knowsam.errors import InputError
from knowsam.types import IGNORE, Geometry, MedicalLabel
from support.folders import make_folder, make_label, save_picture


def seen(*values: int) -> list[MaskFacts]:
    """One mask of 100 px for each value."""
    return [MaskFacts(Path(f"has_{value}.png"), {value: 100}, (10, 10)) for value in values]


def label(values: list[int]) -> MedicalLabel:
    return MedicalLabel(np.array([values], dtype=np.int32), Geometry(), Path("m.png"))


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ((0, 1), {}, (0, 1)),
        ((0, 1, 2, 3), {}, (0, 1, 2, 3)),
        ((1, 2), {}, (0, 1, 2)),
        ((0, 2), {}, (0, 2)),
        ((0, 1, 2, 4), {}, (0, 1, 2, 4)),
        ((0, 1, 5), {}, (0, 1, 5)),
        ((0, 128, 255), {}, (0, 128, 255)),
        ((0, 85, 170, 255), {}, (0, 85, 170, 255)),
        ((0, 1, 2, 4), {"classes": 4}, (0, 1, 2, 4)),
        ((0, 1, 4), {"classes": 5}, (0, 1, 2, 3, 4)),
        ((0, 255), {}, (0, 255)),
        ((255,), {}, (0, 255)),
        ((0, 255), {"classes": 2}, (0, 255)),
        ((0, 1, 255), {"ignore_value": 255}, (0, 1)),
        ((0, 1), {"classes": 4}, (0, 1, 2, 3)),
        ((0,), {"classes": 2}, (0, 1)),
        ((0, 85, 170, 255), {"label_values": [0, 85, 170, 255]}, (0, 85, 170, 255)),
        ((0, 255), {"label_values": [255, 0]}, (255, 0)),
        ((-1, 0, 1), {"ignore_value": -1}, (0, 1)),
    ],
)
def test_inferred_values(values: tuple[int, ...], options: dict, expected: tuple[int, ...]) -> None:
    coding, _ = infer_coding(seen(*values), LabelSpec(**options))
    assert coding.values == expected
    assert coding.classes == len(expected) == len(coding.names)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ((0, 1, 255), {}, r"has_255\.png.*data\.ignore_value=255.*data\.mask_threshold=1"),
        ((0, 1, 2, 3, 255), {}, r"data\.ignore_value=255.*data\.label_values=\[0,1,2,3,255\]"),
        ((-1, 0, 1), {}, r"data\.ignore_value=-1"),
        (tuple(range(200)), {}, r"200 different values"),
        (tuple(range(0, 256, 7)), {}, r"different values"),
        ((0,), {}, r"only the value 0"),
        ((0, 255), {"ignore_value": 255}, r"only the value 0"),
        ((0, 1), {"classes": 1}, r"at least 2"),
        (
            (0, 1, 2),
            {"classes": 2},
            r"has_2\.png: mask values outside the classes: 2 \(100 px, .*expected only \[0, 1\]",
        ),
        ((0, 1, 255), {"classes": 2}, r"ignore_value=255"),
        ((0, 255), {"classes": 3}, r"outside the classes: 255"),
        ((0, 7), {"label_values": [0, 5]}, r"outside the classes: 7"),
        ((0, 5), {"label_values": [0, 5], "classes": 3}, r"2 values for 3 classes"),
        ((0, 5), {"label_values": [0, 0]}, r"twice"),
        ((0, 1), {"label_values": [0, 1], "ignore_value": 1}, r"also the value of a class"),
    ],
)
def test_values_without_a_meaning_raise_and_advise(values: tuple[int, ...], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        infer_coding(seen(*values), LabelSpec(**options))
    assert "\n" not in str(caught.value)


def test_mapping_of_0_and_255_is_said() -> None:
    _, notes = infer_coding(seen(0, 255))
    assert notes == ["Mask values 0 and 255 are read as classes 0 and 1."]


def test_names() -> None:
    coding, _ = infer_coding(seen(0, 1), LabelSpec(classes=["tissue", "lesion"]))
    assert coding.names == ("tissue", "lesion")
    assert infer_coding(seen(0, 1, 2))[0].names == ("background", "class_1", "class_2")


@pytest.mark.parametrize("far", [255, 1_000_000])
def test_encode(far: int) -> None:
    coding = LabelCoding((0, far), ("a", "b"), ignore_value=7)
    encoded = coding.encode(label([far, 0, 7]))
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [[1, 0, IGNORE]]
    with pytest.raises(InputError, match=r"m\.png: mask values outside the classes: 3, 9"):
        coding.encode(label([9, 0, 3]))


def test_encode_keeps_the_order_of_label_values() -> None:
    coding = LabelCoding((255, 0, 85), ("a", "b", "c"))
    assert coding.encode(label([0, 85, 255])).tolist() == [[1, 2, 0]]


def test_value_counts() -> None:
    assert value_counts(np.array([3, 3, -2, 0])) == {-2: 1, 0: 1, 3: 2}
    wide = np.array([-(2**31), 2**31 - 1, 0, 0], dtype=np.int32)
    assert value_counts(wide) == {-(2**31): 1, 0: 2, 2**31 - 1: 1}


def test_discover_counts_pixels_and_notes_absent_classes(tmp_path: Path) -> None:
    folder = scan_folder(make_folder(tmp_path, n_images=3, n_masks=3, size=(4, 8), classes=2))
    found = discover_coding(folder.labelled_cases(), LabelSpec(classes=3))
    coding, notes, counts = found.coding, found.notes, found.pixels
    assert counts.tolist() == [48, 48, 0]
    assert len(notes) == 1
    assert "Class 2 (class_2, mask value 2) never occurs" in notes[0]
    assert coding.classes == 3


def test_validation_masks_count_for_the_coding_only(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=2, n_masks=2, size=(4, 8), classes=2)
    save_picture(tmp_path / "masks" / "case_1.png", make_label((4, 8), classes=4))
    cases = scan_folder(tmp_path).labelled_cases()
    found = discover_coding(cases[:1], also=cases[1:])
    coding, notes, counts = found.coding, found.notes, found.pixels
    assert coding.classes == 4
    assert counts.tolist() == [16, 16, 0, 0]
    assert len(notes) == 2


def test_discover_names_file_and_needs_masks(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=2, n_masks=2, size=(4, 8), classes=4)
    cases = scan_folder(tmp_path).labelled_cases()
    with pytest.raises(InputError, match=r"case_0\.png.*outside the classes: 2, 3"):
        discover_coding(cases, LabelSpec(classes=2))
    with pytest.raises(InputError, match="at least one mask"):
        discover_coding([])


def test_corrupt_hidden_masks_are_never_opened(tmp_path: Path) -> None:
    folder = scan_folder(make_folder(tmp_path, n_images=6, n_masks=6, size=(4, 8)))
    split = make_split(folder, 2)
    for stem in split.unlabelled:
        hidden = folder.cases[stem].label
        assert hidden is not None
        hidden.write_bytes(b"broken")
    visible = [folder.cases[stem] for stem in split.labelled]
    coding = discover_coding(visible, also=[folder.cases[stem] for stem in split.val]).coding
    assert coding.classes == 3

"""What the values of whole sets of masks mean (docs/masks.md): every form in which people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowsam.data.discover import infer_coding
from knowsam.data.labels import NOTHING_SAID, LabelCoding, LabelSpec, read_masks
from knowsam.errors import InputError
from knowsam.io import read_label
from support.folders import save_picture

SIZE = 64


def disc(number: int = 0, radius: int = 14) -> np.ndarray:
    """`(64, 64)` bool: a disc, of another place for each number."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return (rows - 24 - 3 * (number % 5)) ** 2 + (columns - 26 - 2 * (number % 7)) ** 2 < radius**2


def white(number: int = 0) -> np.ndarray:
    return disc(number).astype(np.uint8) * 255


def three(number: int = 0) -> np.ndarray:
    """0, 128 and 255, as WBC has them."""
    return np.where(disc(number, 7), 255, np.where(disc(number), 128, 0)).astype(np.uint8)


def save_all(folder: Path, arrays: list[np.ndarray], suffix: str = ".png", **options: object) -> list[Path]:
    return [save_picture(folder / f"m{i}{suffix}", array, **options) for i, array in enumerate(arrays)]


def infer(paths: list[Path], spec: LabelSpec = NOTHING_SAID) -> tuple[LabelCoding, list[str]]:
    return infer_coding(list(read_masks(paths)), spec)


def encoded(paths: list[Path], coding: LabelCoding) -> list[np.ndarray]:
    return [coding.encode(read_label(path)) for path in paths]


def test_values_that_occur_are_the_classes(tmp_path: Path) -> None:
    values = np.array([0, 1, 2, 4], np.uint8)
    masks = save_all(tmp_path, [values[np.arange(64).reshape(8, 8) % 4]])
    coding, notes = infer(masks)
    assert (coding.values, coding.classes, coding.mask_values) == ((0, 1, 2, 4), 4, (0, 1, 2, 4))
    assert notes == ["Mask values 0, 1, 2, 4 are read as classes 0 to 3 in this order."]
    np.testing.assert_array_equal(encoded(masks, coding)[0], np.arange(64).reshape(8, 8) % 4)


@pytest.mark.parametrize(
    ("values", "written"),
    [((0, 1, 2), None), ((0, 255), None), ((0, 2), (0, 2)), ((0, 2, 1), (0, 2, 1)), ((-1, 0), None)],
)
def test_what_predictions_are_written_with(values: tuple[int, ...], written: tuple[int, ...] | None) -> None:
    assert LabelCoding(values, ("a",) * len(values)).mask_values == written


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_masks_of_one_object_are_read_by_a_threshold(tmp_path: Path, quality: int) -> None:
    masks = save_all(tmp_path, [white(i) for i in range(4)], ".jpg", quality=quality)
    coding, (note,) = infer(masks)
    assert coding.classes == 2
    assert note.startswith("4 masks in JPEG: background and object are told apart at 128; ")
    for i, label in enumerate(encoded(masks, coding)):
        assert (label != disc(i)).mean() < 0.005
    doubtful = sum(int(((array := read_label(path).array) >= 64).sum() - (array > 191).sum()) for path in masks)
    assert f" {doubtful} px" in note


def test_jpeg_beside_png_is_the_same_class_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    masks = save_all(tmp_path, [white(0), white(1)])
    masks += save_all(tmp_path, [white(2), white(3), white(3) * 0], ".jpg")
    coding, _ = infer(masks)
    assert [label.max() for label in encoded(masks, coding)] == [1, 1, 1, 1, 0]
    only_empty, _ = infer(masks[:2] + masks[-1:])
    assert encoded(masks[-1:], only_empty)[0].max() == 0


def test_more_classes_in_jpeg_are_refused_with_a_way_on(tmp_path: Path) -> None:
    masks = save_all(tmp_path, [three()], ".jpg", quality=75)
    with pytest.raises(InputError, match=r"m0\.jpg: a mask in JPEG.*PNG.*data\.mask_threshold=64"):
        infer(masks)
    coding, _ = infer(masks, LabelSpec(mask_threshold=64))
    assert (encoded(masks, coding)[0] != disc()).mean() < 0.01
    indices = save_all(tmp_path / "indices", [(disc() * 3).astype(np.uint8)], ".jpg")
    with pytest.raises(InputError, match=r"export the masks again as PNG from where they were drawn\.$"):
        infer(indices)
    masks += save_all(tmp_path / "png", [three()])
    with pytest.raises(InputError, match=r"m0\.jpg: a mask in JPEG"):
        infer(masks)


def test_one_bit_beside_eight_bits_is_the_same_class(tmp_path: Path) -> None:
    masks = [*save_all(tmp_path, [disc(0), disc(1)], ".bmp"), save_picture(tmp_path / "w.bmp", white(2))]
    first_white = Image.fromarray((~disc(3)).astype(np.uint8), mode="P")
    first_white.putpalette([255, 255, 255, 0, 0, 0])
    first_white.save(tmp_path / "p.bmp", bits=1)
    masks += [tmp_path / "p.bmp", save_picture(tmp_path / "t.tif", disc(4))]
    coding, notes = infer(masks)
    assert coding.values == (0, 255)
    assert any(note.startswith("4 masks of one bit per pixel: white is the class that 255 is") for note in notes)
    for i, label in enumerate(encoded(masks, coding)):
        np.testing.assert_array_equal(label, disc(i))
    beside_indices, _ = infer([*masks[:2], save_picture(tmp_path / "one.png", disc(2).astype(np.uint8))])
    assert beside_indices.values == (0, 1)


def test_a_few_slips_are_named_and_counted_and_no_advice_makes_them_a_class(tmp_path: Path) -> None:
    arrays = [white(i) for i in range(6)]
    arrays[3][2:6, 2:5] = 32
    masks = save_all(tmp_path, arrays)
    with pytest.raises(
        InputError, match=r"m3\.png: 12 px of value 32 \(1 of 6 masks\), beside the values 0, 255"
    ) as said:
        infer(masks)
    assert "data.mask_threshold=128" in str(said.value)
    assert "label_values=[" not in str(said.value)
    by_rule, _ = infer(masks, LabelSpec(mask_threshold=128))
    np.testing.assert_array_equal(encoded(masks, by_rule)[3], disc(3))
    nearest, notes = infer(masks, LabelSpec(stray_share=0.01))
    np.testing.assert_array_equal(encoded(masks, nearest)[3], disc(3))
    assert notes[-1] == "12 px of value 32 in 1 mask (m3.png) take the nearest class's value."
    with pytest.raises(InputError, match=r"m3\.png: mask values outside the classes: 32 \(12 px"):
        infer(masks, LabelSpec(stray_share=0.001))


def test_slips_between_three_classes_take_the_nearest_by_choice(tmp_path: Path) -> None:
    arrays = [three(i) for i in range(4)]
    arrays[1][:2, :2] = 140
    arrays[2][:1, :3] = 250
    masks = save_all(tmp_path, arrays)
    with pytest.raises(InputError, match=r"140.*250.*\(2 of 4 masks\).*data\.stray_share=0\.01") as said:
        infer(masks)
    assert "mask_threshold" not in str(said.value)
    coding, _ = infer(masks, LabelSpec(stray_share=0.01))
    assert coding.values == (0, 128, 255)
    assert encoded(masks, coding)[1][0, 0] == 1
    assert encoded(masks, coding)[2][0, 0] == 2


def test_a_small_organ_that_most_masks_show_is_a_class(tmp_path: Path) -> None:
    arrays = [white(i) for i in range(6)]
    for array in arrays[:4]:
        array[2:6, 2:6] = 90
    coding, _ = infer(save_all(tmp_path, arrays))
    assert coding.values == (0, 90, 255)


def test_blurred_masks_name_the_threshold(tmp_path: Path) -> None:
    small = [np.asarray(Image.fromarray(white(i)).resize((48, 48), Image.Resampling.BILINEAR)) for i in range(4)]
    masks = save_all(tmp_path, small)
    with pytest.raises(InputError, match=r"in two groups.*far from both.*type data\.mask_threshold=128"):
        infer(masks)
    thrice = [np.asarray(Image.fromarray(three(i)).resize((48, 48), Image.Resampling.BILINEAR)) for i in range(4)]
    with pytest.raises(InputError) as said:
        infer(save_all(tmp_path / "three", thrice))
    assert "in two groups" not in str(said.value)


def test_numbered_objects_are_asked_about(tmp_path: Path) -> None:
    arrays = []
    for count in (5, 8, 6, 7):
        array = np.zeros((SIZE, SIZE), np.uint8)
        for number in range(count):
            row, column = divmod(number, 3)
            array[4 + 18 * row : 14 + 18 * row, 4 + 18 * column : 14 + 18 * column] = number + 1
        arrays.append(array)
    masks = save_all(tmp_path, arrays)
    with pytest.raises(InputError, match=r"seem to number objects.*data\.instances=true.*data\.classes=9"):
        infer(masks)
    coding, _ = infer(masks, LabelSpec(instances=True))
    np.testing.assert_array_equal(encoded(masks, coding)[1], arrays[1] > 0)
    assert infer(masks, LabelSpec(classes=9))[0].classes == 9


def test_classes_in_several_pieces_or_the_same_everywhere_are_no_numbers(tmp_path: Path) -> None:
    stripes = [((np.arange(SIZE) // 4) % classes).astype(np.uint8) * np.ones((SIZE, 1), np.uint8) for classes in (6, 7)]
    assert infer(save_all(tmp_path, stripes))[0].classes == 7
    blocks = np.repeat(np.arange(8), 8)[:, None] * np.ones((1, SIZE), int)
    assert infer(save_all(tmp_path / "same", [blocks.astype(np.uint8)] * 3))[0].classes == 8


def test_palettes_of_colour_are_indices_and_must_be_one(tmp_path: Path) -> None:
    def save(name: str, colours: list[int]) -> Path:
        picture = Image.fromarray(disc().astype(np.uint8), mode="P")
        picture.putpalette(colours)
        picture.save(tmp_path / name)
        return tmp_path / name

    first, second = save("a.png", [0, 0, 0, 255, 0, 0]), save("b.png", [0, 0, 0, 0, 255, 0])
    coding, notes = infer([first, first])
    assert coding.values == (0, 1)
    assert notes == ["2 masks with a palette of colours: the indices are the values."]
    _, notes = infer([first, second])
    assert notes[1].startswith("Palettes differ: index 1 has another colour in b.png than in a.png")


def test_255_beside_indices_is_asked_about_even_where_it_is_rare(tmp_path: Path) -> None:
    array = disc().astype(np.uint8)
    array[0, :3] = 255
    with pytest.raises(InputError, match=r"255 beside.*data\.ignore_value=255"):
        infer(save_all(tmp_path, [array, array]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_threshold": 128, "instances": True}, "both given"),
        ({"mask_threshold": 128, "label_values": [0, 255]}, "both given"),
        ({"instances": True, "classes": 3}, "makes 2 classes, but classes is 3"),
        ({"mask_threshold": 300}, "only the value 0|no pixel"),
    ],
)
def test_contradictions(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        infer(save_all(tmp_path, [white()]), LabelSpec(**options))


def test_ignored_pixels_stay_ignored_under_a_threshold(tmp_path: Path) -> None:
    array = white()
    array[0] = 7
    coding, _ = infer(save_all(tmp_path, [array]), LabelSpec(mask_threshold=128, ignore_value=7))
    assert set(np.unique(encoded([tmp_path / "m0.png"], coding)[0])) == {-1, 0, 1}


def test_a_lossless_set_does_not_read_a_jpeg_silently(tmp_path: Path) -> None:
    coding, _ = infer(save_all(tmp_path, [white()]))
    with pytest.raises(InputError, match=r"m0\.jpg: a mask in JPEG"):
        encoded(save_all(tmp_path, [white()], ".jpg"), coding)

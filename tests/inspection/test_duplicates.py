from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowsam.inspection.check import check_folder
from knowsam.inspection.detail import find_position, frame
from knowsam.inspection.duplicates import NEAR, difference_hash, near_pairs
from knowsam.inspection.examine import chroma, thumbnails
from knowsam.inspection.findings import CheckReport
from knowsam.inspection.inverted import find_negatives
from knowsam.io import read_image
from support.folders import make_folder, make_label, save_hdf5, save_nifti, save_picture


def scene(seed: int, size: tuple[int, int] = (160, 200)) -> np.ndarray:
    """A smooth random picture with structure of many sizes, uint8 `size`."""
    random = np.random.default_rng(seed)
    total = np.zeros(size)
    for cells, weight in ((4, 60.0), (12, 40.0), (40, 40.0)):
        small = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
        total += weight * np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))
    return np.clip(110 + total, 0, 255).astype(np.uint8)


def folder_of_scenes(root: Path, number: int = 12, groups: list[str] | None = None) -> Path:
    make_folder(root, n_images=number, n_masks=number, size=(160, 200), groups=groups)
    for i in range(number):
        save_picture(root / "images" / f"case_{i}.png", scene(i))
    return root


def finding(report: CheckReport, kind: str) -> tuple[str, ...]:
    """The files of the one finding of this kind, () where there is none."""
    found = [one for one in report.findings if one.kind == kind]
    assert len(found) <= 1
    return found[0].files if found else ()


def copy_kinds(report: CheckReport) -> set[str]:
    return {one.kind for one in report.findings if "cop" in one.kind or "leak" in one.kind or one.kind == "repeated"}


def as_jpeg(picture: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


def brighter(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture * 0.8 + 40, 0, 255).astype(np.uint8)


def squeezed(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.BILINEAR))


def noisy(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(5).normal(0, 6, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def thumbnail(array: np.ndarray) -> np.ndarray | None:
    return thumbnails(array)[0]


def test_thumbnail_cells_are_means() -> None:
    array = np.arange(128 * 128, dtype=np.uint16).reshape(128, 128, 1)
    means = array[..., 0].reshape(64, 2, 64, 2).mean(axis=(1, 3))
    expected = (means - means.min()) / (means.max() - means.min())
    small = thumbnail(array)
    assert small is not None
    np.testing.assert_allclose(small.astype(float), expected, atol=1e-3)
    assert thumbnails(np.full((20, 20, 1), 7, np.uint8)) == (None, None)
    fine = thumbnails(array)[1]
    assert fine is not None
    np.testing.assert_array_equal(fine, np.rint(array[..., 0] / array.max() * 255))


def test_difference_hash_of_a_ramp() -> None:
    rows, columns = np.mgrid[:64, :64] / 63.0
    bits = difference_hash(np.stack([rows, 1 - rows, columns]))
    # 15 x 16 steps along each of the two axes: first down, then across; no step is 0.
    assert bits.shape == (3, 2 * 240)
    np.testing.assert_allclose(np.linalg.norm(bits, axis=1), 1, rtol=1e-6)
    assert np.sign(bits[:, ::240]).tolist() == [[1, 0], [-1, 0], [0, 1]]
    # What 8 bits cannot hold is no step.
    assert not difference_hash(0.5 + 0.001 * rows[None]).any()


def test_exact_copies_are_found_whatever_the_file_format(tmp_path: Path) -> None:
    data = folder_of_scenes(tmp_path)
    (data / "images" / "case_3.png").unlink()
    save_picture(data / "images" / "case_3.bmp", scene(0))
    save_picture(data / "images" / "case_4.png", np.repeat(scene(0)[..., None], 3, axis=2))
    (data / "val.txt").write_text("case_11\n")
    report = check_folder(data)
    assert copy_kinds(report) == {"exact-copies"}
    assert finding(report, "exact-copies") == ("case_0", "case_3", "case_4")


def test_copies_across_the_split_are_a_leak(tmp_path: Path) -> None:
    data = folder_of_scenes(tmp_path)
    save_picture(data / "unlabelled" / "extra.png", scene(0))
    save_picture(data / "unlabelled" / "other.png", as_jpeg(scene(1)))
    (data / "val.txt").write_text("case_0\n")
    (data / "test.txt").write_text("case_1\n")
    report = check_folder(data)
    assert copy_kinds(report) == {"exact-leak", "near-leak"}
    assert finding(report, "exact-leak") == ("case_0", "extra")
    assert finding(report, "near-leak") == ("case_1", "other")
    assert report.ok


def test_copies_between_validation_and_test_are_a_leak(tmp_path: Path) -> None:
    data = folder_of_scenes(tmp_path)
    save_picture(data / "images" / "case_1.png", scene(0))
    (data / "val.txt").write_text("case_0\n")
    (data / "test.txt").write_text("case_1\n")
    assert copy_kinds(check_folder(data)) == {"exact-leak"}


@pytest.mark.parametrize("change", [as_jpeg, brighter, squeezed, noisy])
def test_near_copies_are_found(change, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    small = [thumbnail(scene(i)[..., None]) for i in range(12)]
    small.append(thumbnail(change(scene(3))[..., None]))
    pairs = near_pairs(np.stack(small), [str(i) for i in range(13)])
    assert [(first, second) for first, second, _ in pairs] == [(3, 12)]
    assert pairs[0][2] >= NEAR


def test_same_wide_brightness_with_other_detail_is_no_copy() -> None:
    # All images bright and dark in the same places, as in pictures of one anatomy: correlation of the whole above 0.9.
    base = scene(100).astype(float)
    images = [np.clip(base + 0.25 * (scene(i).astype(float) - 110), 0, 255) for i in range(12)]
    small = np.stack([thumbnail(image[..., None]) for image in images])
    flat = small.reshape(12, -1).astype(float)
    assert np.corrcoef(flat)[0, 1:].min() > 0.9
    assert near_pairs(small, [str(i) for i in range(12)]) == []


def test_common_frame_is_no_copy() -> None:
    images = [scene(i) for i in range(12)]
    for image in images:
        image[:16] = 0
        image[4:12:2, 10:150] = 255
        image[20::8, 185:197] = 255
    assert near_pairs(np.stack([thumbnail(one[..., None]) for one in images]), list(map(str, range(12)))) == []


def test_slices_of_one_group_are_not_compared(tmp_path: Path) -> None:
    data = folder_of_scenes(tmp_path)
    for z in range(3):
        save_picture(data / "unlabelled" / f"p1_slice_{z}.png", noisy(scene(50 + z // 2)))
        save_picture(data / "unlabelled" / f"p1_slice_{z}.png", scene(50) if z else as_jpeg(scene(50)))
    report = check_folder(data)
    assert copy_kinds(report) == {"repeated"}  # slices 1 and 2 are equal to the pixel, 0 is nearly so
    assert finding(report, "repeated") == ("p1_slice_1", "p1_slice_2")


@pytest.mark.parametrize(("alike", "found"), [(1, False), (2, True), (4, True)])
def test_volumes_of_slices_need_half_of_them(alike: int, found: bool, tmp_path: Path) -> None:
    data = folder_of_scenes(tmp_path)
    for z in range(4):
        save_picture(data / "unlabelled" / f"p1_slice_{z}.png", scene(50 + z))
        other = as_jpeg(scene(50 + z)) if z < alike else scene(70 + z)
        save_picture(data / "unlabelled" / f"p2_slice_{z}.png", other)
    assert (copy_kinds(check_folder(data)) == {"near-copies"}) is found


def test_near_copies_of_volume_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    volumes = random.uniform(0, 1000, (5, 24, 24, 24)).repeat(2, axis=3).astype(np.float32)
    for i, volume in enumerate([*volumes, volumes[1] + random.normal(0, 30, volumes[1].shape)]):
        save_nifti(tmp_path / "images" / f"v{i}.nii.gz", volume.astype(np.float32))
        save_nifti(tmp_path / "labels" / f"v{i}.nii.gz", make_label((24, 24, 48)))
    report = check_folder(tmp_path)
    found = {kind: finding(report, kind) for kind in copy_kinds(report)}
    assert list(found.values()) == [("v1", "v5")]
    assert next(iter(found)).startswith("near-")


def test_equal_images_with_different_masks(tmp_path: Path) -> None:
    data = folder_of_scenes(tmp_path, groups=["g"] * 2 + [f"g{i}" for i in range(10)])
    save_picture(data / "images" / "case_1.png", scene(0))
    report = check_folder(data)
    assert copy_kinds(report) == {"repeated"}
    assert finding(report, "contradicting-masks") == ()
    save_picture(data / "masks" / "case_1.png", make_label((160, 200))[::-1])
    assert finding(check_folder(data), "contradicting-masks") == ("case_0", "case_1")


def fluorescence(seed: int) -> np.ndarray:
    """Bright discs on a dark ground, (64, 64) in [0, 1]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    picture = random.normal(0.1, 0.02, (64, 64))
    for y, x in random.integers(5, 59, (6, 2)):
        picture[(rows - y) ** 2 + (columns - x) ** 2 < 25] = 0.9
    return np.clip(picture, 0, 1)


def said(thumbnails: np.ndarray) -> list[int]:
    """The images that look like negatives, or like another kind."""
    found = find_negatives(thumbnails)
    assert not found.marks.any()
    return np.flatnonzero(found.by_histogram).tolist()


def test_inverted_images_are_found() -> None:
    thumbnails = np.stack([fluorescence(i) for i in range(20)])
    assert said(thumbnails) == []
    thumbnails[[3, 7]] = 1 - thumbnails[[3, 7]]
    assert said(thumbnails) == [3, 7]
    assert said(thumbnails[:9]) == []


def test_set_without_a_typical_histogram_has_no_inverted_images() -> None:
    random = np.random.default_rng(0)
    assert said(np.stack([random.beta(*random.uniform(0.5, 5, 2), (64, 64)) for _ in range(40)])) == []


def test_inverted_images_in_the_report(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=20, n_masks=4, size=(64, 64))
    for i in range(20):
        picture = fluorescence(i) if i != 9 else 1 - fluorescence(i)
        save_picture(tmp_path / "images" / f"case_{i}.png", (255 * picture).astype(np.uint8))
    assert finding(check_folder(tmp_path), "inverted") == ("case_9",)


def stained(seed: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Tissue-like: purple structure on pink, of no typical histogram, uint8 `(64, 64, 3)`."""
    random = np.random.default_rng(seed)
    share = scene(seed, size)[..., None] / 255.0
    share = np.clip(share + random.uniform(-0.35, 0.35), 0, 1)
    return (share * (235, 190, 225) + (1 - share) * (110, 60, 140)).astype(np.uint8)


def test_negatives_of_colour_images_are_told_by_their_hue() -> None:
    pictures = [stained(i) for i in range(30)]
    for index in (4, 17):
        pictures[index] = 255 - pictures[index]
    small = np.stack([thumbnail(one) for one in pictures])
    found = find_negatives(small, np.stack([chroma(one) for one in pictures]))
    assert np.flatnonzero(found.marks).tolist() == [4, 17]
    assert not found.by_histogram.any()


def test_negatives_of_stained_images_among_grey_ones_are_told_by_their_hue() -> None:
    pictures = [stained(i) for i in range(12)]
    pictures[4] = 255 - pictures[4]
    greys = [np.uint8(255 * fluorescence(i))[..., None] for i in range(40)]
    none = np.zeros_like(chroma(pictures[0]))
    colours = np.stack([none] * 40 + [chroma(one) for one in pictures])
    found = find_negatives(np.stack([thumbnail(one) for one in greys + pictures]), colours)
    assert np.flatnonzero(found.marks).tolist() == [44]
    # The others of them are another kind of image, as before.
    assert not found.by_histogram[:40].any()


def test_a_few_volumes_are_compared_with_the_slices_beside_them(tmp_path: Path) -> None:
    for i in range(12):
        save_hdf5(tmp_path / "data" / "slices" / f"patient{i:03}_frame01_slice_0.h5", image=fluorescence(i),
                  label=make_label((64, 64)))  # fmt: skip
    for i in (1, 2):
        volume = np.stack([fluorescence(20 + i)] * 6)
        save_hdf5(tmp_path / "data" / f"patient{20 + i:03}_frame01.h5", image=volume if i == 1 else 1 - volume,
                  label=make_label((6, 64, 64)))  # fmt: skip
    (tmp_path / "train_slices.list").write_text("".join(f"patient{i:03}_frame01_slice_0\n" for i in range(12)))
    (tmp_path / "val.list").write_text("patient021_frame01\npatient022_frame01\n")
    assert finding(check_folder(tmp_path), "inverted") == ("patient022_frame01",)


def test_dark_images_of_the_same_hue_are_no_negatives() -> None:
    """A lesion that fills the picture turns the histogram round, not the colours."""
    pictures = [np.full((64, 64, 3), (220, 170, 150), np.uint8) for _ in range(30)]
    for index, picture in enumerate(pictures):
        half = 30 if index in (3, 8) else 8
        picture[32 - half : 32 + half, 32 - half : 32 + half] = (90, 60, 50)
        picture[index % 8 :: 8] -= 9
    small = np.stack([thumbnail(one) for one in pictures])
    assert not find_negatives(small, np.stack([chroma(one) for one in pictures])).marks.any()


def test_chroma_of_a_negative_has_the_opposite_sign() -> None:
    picture = stained(0)
    one, other = chroma(picture), chroma(255 - picture)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.astype(float), -other.astype(float), atol=1e-3)
    assert chroma(picture[..., :1]) is None


def test_two_kinds_of_images_are_a_note(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=20, n_masks=4, size=(64, 64))
    for i in range(20):
        picture = 1 - fluorescence(i) if i % 4 == 0 else fluorescence(i)
        save_picture(tmp_path / "images" / f"case_{i}.png", (255 * picture).astype(np.uint8))
    report = check_folder(tmp_path)
    assert finding(report, "inverted") == ()
    assert finding(report, "two-kinds") == ("case_0", "case_4", "case_8", "case_12", "case_16")
    assert [one.severity for one in report.findings if one.kind == "two-kinds"] == ["note"]


def round_field(seed: int) -> np.ndarray:
    """A disc of smooth structure that fades towards its rim, on black, as of a fundus camera."""
    rows, columns = np.mgrid[-1:1:160j, -1:1:160j]
    radius = np.hypot(rows, columns)
    inside = 60 + 100 * np.sqrt(np.clip(1 - radius**2, 0, 1)) + 0.3 * (scene(seed, (160, 160)).astype(float) - 110)
    return np.where(radius < 0.95, np.clip(inside, 20, 255), 0).astype(np.uint8)


@pytest.mark.parametrize("number", [6, 12])
def test_a_round_frame_is_no_copy(number: int) -> None:
    small = np.stack([thumbnail(round_field(i)[..., None]) for i in range(number)])
    assert near_pairs(small, list(map(str, range(number)))) == []


def test_frame_is_what_is_black_and_reaches_the_border() -> None:
    picture = np.full((1, 20, 20), 0.5)
    picture[0, :, :6] = 0.0
    picture[0, 8:12, 12:16] = 0.0
    found = frame(picture)[0]
    assert found[:, :6].all()
    assert not found[:, 9:].any()


@pytest.mark.parametrize("corner", [False, True])
def test_copies_with_a_border_cropped_off_are_found(corner: bool) -> None:
    pictures = [scene(i) for i in range(12)]
    pictures.append(pictures[3][4:, 4:] if corner else pictures[3][3:-3, 4:-4])
    found = near_pairs(np.stack([thumbnail(one[..., None]) for one in pictures]), [str(i) for i in range(13)])
    assert [(first, second) for first, second, _ in found] == [(3, 12)]


def test_an_even_ground_that_jpeg_turned_round_hides_no_copy() -> None:
    pictures = [np.clip(6 + 200 * fluorescence(i) ** 4, 0, 255).astype(np.uint8) for i in range(12)]
    copy = pictures[3].copy()
    copy[copy < 8] += np.random.default_rng(0).integers(0, 2, (copy < 8).sum()).astype(np.uint8)
    found = near_pairs(np.stack([thumbnail(one[..., None]) for one in [*pictures, copy]]), list(map(str, range(13))))
    assert [(first, second) for first, second, _ in found] == [(3, 12)]


def test_cells_on_an_empty_ground_are_no_copies() -> None:
    rows, columns = np.mgrid[-1:1:128j, -1:1:128j]
    angle, pictures = np.arctan2(rows, columns), []
    for i in range(12):
        inner = 0.25 * scene(i, (128, 128)).astype(float)
        turns = np.random.default_rng(i).uniform(0, 2 * np.pi, 3)
        radius = 0.35 + sum(0.06 * np.sin(waves * angle + turn) for waves, turn in zip((2, 3, 5), turns, strict=True))
        pictures.append(np.where(np.hypot(rows, columns) < radius, 40 + inner, 255).astype(np.uint8))
    coarse, fine = zip(*(thumbnails(one[..., None]) for one in pictures), strict=True)
    assert near_pairs(np.stack(coarse), list(map(str, range(12))), fine) == []


def test_position_of_a_moved_and_stretched_picture_is_found() -> None:
    rows, columns = np.mgrid[:64, :64].astype(np.float32)

    def waves(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.sin(rows / 5) * np.cos(columns / 7) + np.sin((rows + columns) / 9)

    target = waves(rows, columns)[None]
    # What the target shows at x, the source shows at 31.5 + 1.5 + 1.03 (x - 31.5).
    source = waves((rows - 33) / 1.03 + 31.5, columns)[None]
    shift, scale = find_position(target.astype(np.float32), source.astype(np.float32))
    np.testing.assert_allclose(shift, [[1.5, 0]], atol=0.2)
    np.testing.assert_allclose(scale, [[1.03, 1]], atol=0.005)


def test_copies_that_follow_each_other_by_name_suggest_a_video(tmp_path: Path) -> None:
    data = folder_of_scenes(tmp_path, number=14)
    for i in range(1, 14, 2):
        save_picture(data / "images" / f"case_{i}.png", noisy(scene(i - 1)))
    said = [one.suggestion for one in check_folder(data).findings if one.kind.startswith("near-")]
    assert said
    assert all("frames of a video" in text for text in said)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drive", "glas", "ph2", "ddti", "kvasir", "acdc_h5"])
def test_no_real_image_is_taken_for_a_negative(shared_data: Path, name: str) -> None:
    report = check_folder(shared_data / name)
    assert finding(report, "inverted") == finding(report, "two-kinds") == ()


@pytest.mark.slow
def test_vessels_too_thin_for_small_thumbnails_are_compared_in_finer_ones(shared_data: Path) -> None:
    pictures = [read_image(path).array for path in sorted((shared_data / "drive" / "images").iterdir())]
    pictures += [one[7:-7, 7:-7] for one in pictures]
    coarse, fine = zip(*(thumbnails(one) for one in pictures), strict=True)
    groups, half = list(map(str, range(40))), len(pictures) // 2
    assert not {pair[:2] for pair in near_pairs(np.stack(coarse), groups)} >= {(i, i + half) for i in range(half)}
    found = {pair[:2] for pair in near_pairs(np.stack(coarse), groups, fine)}
    assert found <= {(i, i + half) for i in range(half)}
    assert len(found) >= 18


@pytest.mark.slow
def test_real_sets(shared_data: Path) -> None:
    busi = check_folder(shared_data / "busi")
    near = {*finding(busi, "near-copies"), *finding(busi, "near-leak")}
    assert {"benign_231", "benign_295"} <= near
    assert len(near) == 84
    assert finding(busi, "inverted") == ()
    hippocampus = check_folder(shared_data / "hippocampus")
    assert copy_kinds(hippocampus) == set()
    assert finding(hippocampus, "inverted") == ()


@pytest.mark.slow
def test_real_inverted_contrast(shared_data: Path) -> None:
    import csv

    with (shared_data / "dsb2018" / "images.csv").open() as file:
        kind = {row["stem"]: row["type"] for row in csv.DictReader(file)}
    report = check_folder(shared_data / "dsb2018")
    assert finding(report, "inverted") == ()
    found = finding(report, "two-kinds")
    assert {kind[stem] for stem in found} == {"stained_rgb", "grey_bright"}
    assert len(found) / sum(value != "fluorescence" for value in kind.values()) > 0.9

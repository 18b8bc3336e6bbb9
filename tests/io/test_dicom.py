from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from knowsam.errors import InputError
from knowsam.io import case_stem, read_image, read_label, write_label, write_probabilities
from knowsam.types import MedicalImage
from support.dicom import (
    NAME,
    PATIENT_ID,
    REPORT,
    SECRETS,
    SPACING,
    START,
    STRUCTURES,
    THICKNESS,
    make_dataset,
    make_enhanced,
    make_picture,
    make_slices,
    make_stored,
    pydicom,
    save,
    save_series,
    uid_of,
)
from support.folders import make_image, make_label

SHAPE = (6, 8, 5)
STORED = make_stored(SHAPE)
LABEL = make_label(SHAPE)


def stored_array(image: MedicalImage) -> np.ndarray:
    """The grey voxels in the order of the series: column, row, slice."""
    return image.geometry.as_stored(image.array[..., 0])


def stored_affine(image: MedicalImage) -> np.ndarray:
    """Where these lie."""
    return np.array(image.geometry.header.get_best_affine())


def refusal(path: Path) -> str:
    """Why a file is refused; the sentence says nothing of the patient."""
    with pytest.raises(InputError) as raised:
        read_image(path)
    said = str(raised.value)
    assert str(path.parent) in said
    assert not [secret for secret in SECRETS if secret in said.lower()]
    return said


def test_unsorted_files_without_suffix_become_a_volume_in_the_patient(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", make_slices(STORED)))
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(stored_array(image), STORED.astype(int) - 1024)
    assert image.geometry.spacing_mm == pytest.approx((SPACING[1], SPACING[0], THICKNESS))
    assert image.geometry.slice_axis == 2
    # The first pixel of the first slice, LPS -> RAS.
    np.testing.assert_allclose(stored_affine(image)[:3, 3], (-START[0], -START[1], START[2]))
    # Columns run to the left, rows to the back, slices to the head.
    assert nib.aff2axcodes(stored_affine(image)) == ("L", "P", "S")


def test_any_file_of_the_series_stands_for_it(tmp_path: Path) -> None:
    save_series(tmp_path, make_slices(STORED))
    save_series(tmp_path, make_slices(STORED[..., :2], "b"), lambda index: f"B{index}")
    shapes = [read_image(path).spatial_shape for path in sorted(tmp_path.iterdir())]
    assert shapes == [(6, 8, 2)] * 2 + [SHAPE] * 5


@pytest.mark.parametrize(
    ("orientation", "codes"),
    [
        ((1, 0, 0, 0, 1, 0), ("L", "P", "S")),
        ((1, 0, 0, 0, 0, -1), ("L", "I", "P")),
        ((0, 1, 0, 0, 0, -1), ("P", "I", "R")),
        ((0.8, 0.6, 0, -0.6, 0.8, 0), ("L", "P", "S")),
    ],
)
def test_orientation_of_axial_coronal_sagittal_and_oblique(
    tmp_path: Path, orientation: tuple[float, ...], codes: tuple[str, ...]
) -> None:
    image = read_image(save_series(tmp_path, make_slices(STORED, orientation=orientation)))
    affine = stored_affine(image)
    assert nib.aff2axcodes(affine) == codes
    row = np.array(orientation[:3]) * (-1, -1, 1)
    np.testing.assert_allclose(affine[:3, 0], row * SPACING[1], atol=1e-6)
    np.testing.assert_array_equal(stored_array(image), STORED.astype(int) - 1024)


def test_slices_are_ordered_along_the_normal_whatever_their_numbers_say(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path, make_slices(STORED, step=(0, 0, -THICKNESS))))
    np.testing.assert_array_equal(stored_array(image), STORED[..., ::-1].astype(int) - 1024)
    assert stored_affine(image)[2, 3] == pytest.approx(START[2] - 4 * THICKNESS)


def test_slope_and_intercept_are_those_of_each_slice(tmp_path: Path) -> None:
    files = make_slices(STORED, RescaleIntercept=0, RescaleType="US")
    for z, dataset in enumerate(files):
        dataset.RescaleSlope = 0.5 * (z + 1)
    image = read_image(save_series(tmp_path, files))
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(stored_array(image), STORED * 0.5 * np.arange(1, 6))


def test_without_rescaling_the_stored_type_stays(tmp_path: Path) -> None:
    bare = {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None}
    image = read_image(save_series(tmp_path, make_slices(STORED.astype(np.uint16) + 40000, **bare)))
    assert image.array.dtype == np.uint16
    np.testing.assert_array_equal(stored_array(image), STORED.astype(int) + 40000)


def test_slices_of_different_units_are_refused(tmp_path: Path) -> None:
    files = make_slices(STORED)
    files[2].RescaleType = "US"
    assert "not all rescaled to one unit" in refusal(save_series(tmp_path / "a", files))
    files = make_slices(STORED)
    del files[2].RescaleSlope, files[2].RescaleIntercept
    assert "not all rescaled to one unit" in refusal(save_series(tmp_path / "b", files))


def test_monochrome1_is_inverted_within_its_bits(tmp_path: Path) -> None:
    picture = make_picture(np.array([[0, 1], [4095, 5]], np.uint16), "MONOCHROME1")
    picture.BitsStored, picture.HighBit = 12, 11
    image = read_image(save(picture, tmp_path / "a.dcm"))
    assert image.array[..., 0].tolist() == [[4095, 4094], [0, 4090]]
    signed = make_slices(STORED - 1000, PhotometricInterpretation="MONOCHROME1", RescaleIntercept=0)
    image = read_image(save_series(tmp_path / "signed", signed))
    np.testing.assert_array_equal(stored_array(image), -1 - (STORED.astype(int) - 1000))


def test_colour_and_grey_pictures_are_rows_first(tmp_path: Path) -> None:
    colour = make_image((8, 10), channels=3)
    image = read_image(save(make_picture(colour, "RGB"), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.array, colour)
    assert not image.is_volume
    grey = make_picture(colour[..., 0], number=2)
    grey.PixelSpacing = [0.5, 0.25]
    image = read_image(save(grey, tmp_path / "b.dcm"))
    np.testing.assert_array_equal(image.array[..., 0], colour[..., 0])
    assert image.geometry.spacing_mm == (0.5, 0.25)
    assert image.geometry.affine is None


def test_two_pictures_of_one_series_are_two_cases(tmp_path: Path) -> None:
    first = save(make_picture(make_image((8, 10))), tmp_path / "a.dcm")
    second = save(make_picture(make_image((9, 7)), number=2), tmp_path / "b.dcm")
    assert read_image(first).spatial_shape == (8, 10)
    assert read_image(second).spatial_shape == (9, 7)
    assert case_stem(first) != case_stem(second)


def test_enhanced_file_is_read_through_its_functional_groups(tmp_path: Path) -> None:
    slopes = [1.0, 2.0, 0.5, 1.0, 3.0]
    path = save(make_enhanced(STORED.astype(np.uint16), slopes), tmp_path / "a.dcm")
    image = read_image(path)
    np.testing.assert_allclose(stored_array(image), STORED * np.array(slopes))
    np.testing.assert_allclose(stored_affine(image)[:3, 3], (-START[0], -START[1], START[2]))
    again = read_label(write_label(tmp_path / "out", image.geometry.as_read(LABEL), image))
    np.testing.assert_array_equal(again.geometry.as_stored(again.array), LABEL)


def test_tilted_gantry_is_read_in_a_sheared_affine(tmp_path: Path) -> None:
    files = make_slices(STORED, step=(0.0, 1.0, THICKNESS))
    image = read_image(save_series(tmp_path / "s", files))
    np.testing.assert_allclose(stored_affine(image)[:3, 2], (0.0, -1.0, THICKNESS), atol=1e-6)
    written = write_label(tmp_path / "out", image.geometry.as_read(LABEL), image, as_format="nifti")
    np.testing.assert_array_equal(nib.load(written).affine, stored_affine(image))
    assert int(nib.load(written).header["qform_code"]) == 0
    again = read_label(write_label(tmp_path / "out", image.geometry.as_read(LABEL), image))
    np.testing.assert_array_equal(again.geometry.affine, image.geometry.affine)


def test_a_missing_slice_is_refused_with_its_place(tmp_path: Path) -> None:
    files = make_slices(STORED)
    del files[2]
    said = refusal(save_series(tmp_path, files, lambda index: f"{index}.dcm"))
    assert "1 slice is missing between 1.dcm and 2.dcm (6 mm instead of 3 mm)" in said


def test_slices_at_uneven_distances_are_refused(tmp_path: Path) -> None:
    files = make_slices(STORED)
    files[4].ImagePositionPatient = [START[0], START[1], START[2] + 3 * THICKNESS + 1.0]
    assert "1 to 3 mm apart" in refusal(save_series(tmp_path, files))


def test_two_slices_at_one_position_are_refused_with_what_tells_them_apart(tmp_path: Path) -> None:
    times = make_slices(STORED, TemporalPositionIdentifier=1)
    later = make_slices(STORED, TemporalPositionIdentifier=2)
    for dataset in later:
        dataset.SOPInstanceUID = uid_of(f"later {dataset.InstanceNumber}")
    said = refusal(save_series(tmp_path / "a", [*times, *later]))
    assert "differ in TemporalPositionIdentifier, lie at one position" in said
    said = refusal(save_series(tmp_path / "b", [*times, times[3]], lambda index: f"{index}.dcm"))
    assert "3.dcm and 5.dcm are copies of one slice" in said


def test_slices_of_different_size_or_spacing_are_refused(tmp_path: Path) -> None:
    files = make_slices(STORED)
    files[1].PixelSpacing = [0.6, 0.5]
    assert "different spacing" in refusal(save_series(tmp_path / "a", files))
    files = [*make_slices(STORED), *make_slices(make_stored((5, 8, 7)))[5:]]
    assert "8x6 and 8x5 pixels" in refusal(save_series(tmp_path / "b", files))
    files = make_slices(STORED)
    del files[1].ImagePositionPatient
    assert "has no ImagePositionPatient" in refusal(save_series(tmp_path / "c", files))


def test_several_orientations_localisers_and_films_are_no_volume(tmp_path: Path) -> None:
    files = [*make_slices(STORED[..., :2]), *make_slices(make_stored((6, 8, 4)), orientation=(1, 0, 0, 0, 0, -1))[2:]]
    assert "several orientations" in refusal(save_series(tmp_path / "a", files))
    scout = make_slices(STORED[..., :1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert "a localiser" in refusal(save_series(tmp_path / "b", scout))
    film = make_picture(np.zeros((3, 8, 10), np.uint8))
    film.NumberOfFrames = 3
    assert "a film of 3 frames" in refusal(save(film, tmp_path / "c.dcm"))


def test_what_holds_no_image_is_refused(tmp_path: Path) -> None:
    assert "without an image" in refusal(save(make_dataset(REPORT), tmp_path / "report.dcm"))
    structures = save(make_dataset(STRUCTURES), tmp_path / "rt.dcm")
    assert "contours" in refusal(structures)
    with pytest.raises(InputError, match="convert it to a DICOM segmentation or to NIfTI"):
        read_label(structures)
    (tmp_path / "text.dcm").write_text("no DICOM")
    assert "no DICOM file" in refusal(tmp_path / "text.dcm")
    with pytest.raises(InputError, match="no DICOM segmentation"):
        read_label(save(make_picture(make_image((4, 4))), tmp_path / "picture.dcm"))


def test_directory_of_a_disc_is_no_image_and_no_trouble(tmp_path: Path) -> None:
    directory = make_dataset("1.2.840.10008.1.3.10")
    del directory.SOPClassUID, directory.SOPInstanceUID
    save(directory, tmp_path / "DICOMDIR")
    assert "without an image" in refusal(tmp_path / "DICOMDIR")


def test_truncated_pixels_are_refused_by_the_name_of_their_file(tmp_path: Path) -> None:
    first = save_series(tmp_path, make_slices(make_stored((60, 80, 3))), lambda index: f"{index}.dcm")
    content = (tmp_path / "1.dcm").read_bytes()
    (tmp_path / "1.dcm").write_bytes(content[:-1000])
    assert "1.dcm: its pixels are broken or truncated" in refusal(first)


def test_compression_without_decoder_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.uid import JPEGLossless

    picture = make_picture(make_image((8, 10)))
    picture.file_meta.TransferSyntaxUID = JPEGLossless
    picture.PixelData = pydicom.encaps.encapsulate([picture.PixelData])
    picture["PixelData"].is_undefined_length = True
    path = save(picture, tmp_path / "a.dcm")
    decoder = pydicom.pixels.get_decoder(JPEGLossless)
    monkeypatch.setattr(type(decoder), "is_available", property(lambda self: False))
    said = refusal(path)
    assert "JPEG Lossless" in said
    assert "pip install 'pylibjpeg[all]'" in said


def test_series_is_read_again_when_a_file_has_changed(tmp_path: Path) -> None:
    first = save_series(tmp_path, make_slices(STORED), lambda index: f"{index}.dcm")
    assert read_image(first).spatial_shape == SHAPE
    (tmp_path / "4.dcm").unlink()
    assert read_image(first).spatial_shape == (6, 8, 4)


def test_segmentation_refers_to_every_slice_and_names_its_classes(tmp_path: Path) -> None:
    files = make_slices(STORED)
    image = read_image(save_series(tmp_path / "s", files))
    written = write_label(tmp_path / "out", image.geometry.as_read(LABEL), image, ["background", "liver", "tumour"])
    dataset = pydicom.dcmread(written)
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == ["liver", "tumour"]
    reference = dataset.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == files[0].SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID for item in reference.ReferencedInstanceSequence}
    assert referred == {one.SOPInstanceUID for one in files}
    # What a segmentation says of the patient is what makes it belong to the images.
    assert (str(dataset.PatientName), dataset.PatientID) == (NAME, PATIENT_ID)
    assert dataset.StudyInstanceUID == files[0].StudyInstanceUID
    assert case_stem(written) == case_stem(image.path)


def test_frames_of_a_segmentation_lie_on_the_slices_they_show(tmp_path: Path) -> None:
    """Read with pydicom alone: frame by frame, by position."""
    files = make_slices(STORED)
    image = read_image(save_series(tmp_path / "s", files))
    label = image.geometry.as_read(LABEL * (np.arange(5) == 3).astype(np.uint8))
    dataset = pydicom.dcmread(write_label(tmp_path / "out", label, image))
    shown = set()
    for pixels, group in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        z = (group.PlanePositionSequence[0].ImagePositionPatient[2] - START[2]) / THICKNESS
        shared = dataset.SharedFunctionalGroupsSequence[0]
        place = group if "SegmentIdentificationSequence" in group else shared
        number = place.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(pixels, (number == LABEL[:, :, 3].T) * (z == 3))
        shown.add((round(float(z)), int(number)))
    assert shown == {(z, number) for z in range(5) for number in (1, 2)}


def test_a_series_without_frame_of_reference_takes_nifti_only(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", make_slices(STORED, FrameOfReferenceUID=None)))
    with pytest.raises(InputError, match=r"without FrameOfReferenceUID.*write NIfTI"):
        write_label(tmp_path / "out", image.geometry.as_read(LABEL), image)
    written = write_label(tmp_path / "out", image.geometry.as_read(LABEL), image, as_format="nifti")
    assert read_label(written).array.max() == 2


def test_nothing_found_is_a_segmentation_too(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", make_slices(STORED)))
    label = read_label(write_label(tmp_path / "out", np.zeros(SHAPE, np.uint8), image, ["background", "liver"]))
    assert label.array.shape == SHAPE
    assert not label.array.any()


def test_nifti_masks_and_soft_maps_lie_where_the_series_lies(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", make_slices(STORED)))
    written = nib.load(write_label(tmp_path / "out", image.geometry.as_read(LABEL), image, as_format="nifti"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), LABEL)
    np.testing.assert_array_equal(written.affine, stored_affine(image))
    soft = write_probabilities(tmp_path / "soft", np.stack([k == LABEL for k in range(3)]).astype(float), image)
    assert soft.name == "soft.nii.gz"
    assert nib.load(soft).shape == (*SHAPE, 3)


def test_formats_that_do_not_suit_the_image_are_refused(tmp_path: Path) -> None:
    picture = read_image(save(make_picture(make_image((8, 10))), tmp_path / "a.dcm"))
    with pytest.raises(InputError, match="needs a place in the patient"):
        write_label(tmp_path / "out", np.zeros((8, 10), np.uint8), picture, as_format="nifti")
    nib.save(nib.Nifti1Image(STORED, np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(InputError, match="refers to DICOM images, and this is none"):
        write_label(tmp_path / "out", LABEL, read_image(tmp_path / "b.nii"), as_format="dicom")


def make_sparse(folder: Path, label: np.ndarray, **options: object) -> Path:
    """A segmentation without its empty frames, as most programs write it, in `masks/` beside `images/`."""
    import highdicom

    from knowsam.io.dicom_scan import find_series

    files = make_slices(make_stored(label.shape))
    first = save_series(folder / "images", files)
    image = read_image(first)
    whole = pydicom.dcmread(write_label(folder / "whole", image.geometry.as_read(label), image))
    description = highdicom.seg.SegmentDescription.from_dataset(whole.SegmentSequence[0])
    assert find_series(first).placement is not None
    sparse = highdicom.seg.Segmentation(
        files, label.transpose(2, 1, 0).astype(bool), "BINARY", [description], highdicom.UID(), 1, highdicom.UID(), 1,
        "x", "x", "1", "1", omit_empty_frames=True, **options,
    )  # fmt: skip
    return save(sparse, folder / "masks" / "some name.dcm")


def test_omitted_frames_are_laid_on_the_series(tmp_path: Path) -> None:
    label = (LABEL > 0).astype(np.uint8) * np.isin(np.arange(5), (1, 3)).astype(np.uint8)
    path = make_sparse(tmp_path, label)
    assert pydicom.dcmread(path).NumberOfFrames == 2
    read = read_label(path)
    np.testing.assert_array_equal(read.geometry.as_stored(read.array), label)
    np.testing.assert_array_equal(read.geometry.affine, read_image(tmp_path / "images" / "IM0000").geometry.affine)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "whole.dcm").unlink()
    # Two frames 6 mm apart: of which volume, only the series could say.
    assert read_label(path).array.shape == (6, 8, 2)


def test_segments_that_overlap_or_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "images", make_slices(STORED)))
    written = write_label(tmp_path / "out", np.full(SHAPE, 2, np.uint8), image)
    dataset = pydicom.dcmread(written)
    bits = np.ones_like(dataset.pixel_array)
    dataset.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
    with pytest.raises(InputError, match="segments 1 and 2 overlap in 48 voxels"):
        read_label(save(dataset, tmp_path / "overlap.dcm"))
    dataset = pydicom.dcmread(written)
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 1.0
    with pytest.raises(InputError, match="lies on no slice of the series"):
        read_label(save(dataset, tmp_path / "masks" / "moved.dcm"))
    dataset.SegmentationType = "FRACTIONAL"
    with pytest.raises(InputError, match="threshold them"):
        read_label(save(dataset, tmp_path / "soft.dcm"))


def test_names_are_the_same_wherever_the_files_lie_and_say_nothing(tmp_path: Path) -> None:
    first = save_series(tmp_path / NAME, make_slices(STORED), lambda index: f"{PATIENT_ID}_{index}.dcm")
    second = save_series(tmp_path / "b", make_slices(STORED), lambda index: f"x{index}")
    assert case_stem(first) == case_stem(second)
    assert case_stem(first).startswith("series_")
    assert len(case_stem(first)) == len("series_") + 10


@pytest.mark.subprocess
@pytest.mark.subprocess
def test_without_pydicom_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    path = save_series(tmp_path / "s", make_slices(STORED))
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "import knowsam.io\n"
        f"try: knowsam.io.read_image({str(path)!r})\n"
        "except knowsam.io.InputError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sentence = "a DICOM file, but pydicom is not installed; run pip install 'knowsam[dicom]'."
    assert ended.stdout.strip() == f"{path}: {sentence}"


@pytest.mark.subprocess
@pytest.mark.subprocess
@pytest.mark.filterwarnings("ignore:Invalid value")  # pydicom says so on writing
def test_warnings_of_pydicom_that_quote_the_file_are_silent(tmp_path: Path) -> None:
    path = save_series(tmp_path / "s", make_slices(STORED, StudyInstanceUID=f"1.2.{NAME}"))
    reads = "import pydicom, sys; pydicom.dcmread(sys.argv[1]).StudyInstanceUID"
    reads_silenced = "import knowsam.io, pathlib, sys; knowsam.io.read_image(pathlib.Path(sys.argv[1]))"
    said = [
        subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stderr
        for code in (reads, reads_silenced)
    ]
    assert "Zebulon" in said[0]
    assert said[1] == ""


def test_a_value_that_cannot_be_read_is_not_quoted(tmp_path: Path) -> None:
    path = save(make_slices(STORED[..., :1], SliceThickness=3.125)[0], tmp_path / "a.dcm")
    content = path.read_bytes()
    assert content.count(b"3.125 ") == 1
    path.write_bytes(content.replace(b"3.125 ", b"Zebulo"))
    assert "whose header cannot be read" in refusal(path)
    with pytest.raises(InputError) as raised:
        read_image(path)
    assert "Zebulo" not in str(raised.value)


@pytest.mark.subprocess
@pytest.mark.subprocess
def test_importing_the_readers_does_not_import_pydicom() -> None:
    code = "import sys, knowsam.io, knowsam.data.folder; print('pydicom' in sys.modules, 'highdicom' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert ended.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("name", "shape", "low", "high"),
    [
        ("CT_small.dcm", (128, 128, 1), -896, 1167),
        ("MR_small.dcm", (64, 64, 1), 127, 2145),
        ("MR_small_RLE.dcm", (64, 64, 1), 127, 2145),
        ("MR_small_bigendian.dcm", (64, 64, 1), 127, 2145),
        ("MR_small_implicit.dcm", (64, 64, 1), 127, 2145),
        ("MR_small_jp2klossless.dcm", (64, 64, 1), 127, 2145),
        ("SC_rgb_rle_16bit.dcm", (100, 100), 0, 255),
        ("examples_palette.dcm", (350, 800), 0, 255),
        ("image_dfl.dcm", (512, 512), 0, 255),
    ],
)
def test_files_that_come_with_pydicom(tmp_path: Path, name: str, shape: tuple[int, ...], low: int, high: int) -> None:
    source = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not source.is_file():
        pytest.skip(f"pydicom was installed without {name}")
    image = read_image(Path(shutil.copy(source, tmp_path)))
    assert image.spatial_shape == shape
    assert (image.array.min(), image.array.max()) == (low, high)
    label = make_label(shape)
    np.testing.assert_array_equal(read_label(write_label(tmp_path / "out", label, image)).array, label)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("rtstruct.dcm", "contours"),
        ("test-SR.dcm", "without an image"),
        ("rtdose.dcm", "without an image"),
        ("MR_truncated.dcm", "broken or truncated"),
        ("SC_rgb_rle_2frame.dcm", "a film of 2 frames"),
    ],
)
def test_files_of_pydicom_that_are_refused(tmp_path: Path, name: str, why: str) -> None:
    source = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not source.is_file():
        pytest.skip(f"pydicom was installed without {name}")
    assert why in refusal(Path(shutil.copy(source, tmp_path)))


def test_a_series_is_read_like_the_nifti_that_was_made_of_it(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", make_slices(STORED)))
    nib.save(nib.Nifti1Image(stored_array(image), stored_affine(image)), tmp_path / "a.nii")
    made = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.array, made.array)
    np.testing.assert_allclose(image.geometry.affine, made.geometry.affine, atol=1e-5)
    assert nib.aff2axcodes(image.geometry.affine) == ("R", "A", "S")
    assert image.geometry.spacing_mm == pytest.approx(made.geometry.spacing_mm)
    assert image.geometry.slice_axis == made.geometry.slice_axis

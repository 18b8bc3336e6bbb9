"""Scores against values worked out by hand, and against a restatement without transforms or crops."""

import math

import numpy as np
import pytest

from knowsam.evaluation.metrics import (
    METRICS,
    ClassScore,
    ScoreStatus,
    asd,
    case_scores,
    confusion_counts,
    dice_from_counts,
    dice_score,
    hd95,
    jaccard_score,
    summarise,
    surface_distances,
)
from knowsam.types import IGNORE


def mask(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    result = np.zeros(shape, dtype=bool)
    result[tuple(slice(start, stop) for start, stop in ranges)] = True
    return result


EMPTY = np.zeros((4, 4), dtype=bool)
SQUARE = box((4, 4), (1, 3), (1, 3))


# --- hand values ---


def test_overlap_scores_by_hand():
    prediction = mask("##..", "##..", "....", "....")
    truth = mask(".#..", ".#..", ".#..", "....")
    assert dice_score(prediction, truth) == pytest.approx(4 / 7)
    assert jaccard_score(prediction, truth) == pytest.approx(2 / 5)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_identical_masks_are_perfect(shape):
    truth = np.random.default_rng(0).random(shape) > 0.5
    assert dice_score(truth, truth) == jaccard_score(truth, truth) == 1
    assert hd95(truth, truth) == asd(truth, truth) == 0


def test_single_voxels_three_four_five():
    prediction, truth = box((8, 8), (0, 1), (0, 1)), box((8, 8), (3, 4), (4, 5))
    assert hd95(prediction, truth) == asd(prediction, truth) == 5
    # 3 rows of 2 mm and 4 columns of 0.5 mm
    assert hd95(prediction, truth, (2.0, 0.5)) == pytest.approx(math.hypot(6, 2))


def test_single_voxels_anisotropic_volume():
    prediction, truth = box((4, 5, 6), (0, 1), (1, 2), (1, 2)), box((4, 5, 6), (2, 3), (1, 2), (4, 5))
    assert asd(prediction, truth, (5.0, 1.0, 2.0)) == pytest.approx(math.hypot(10, 6))
    assert hd95(prediction, truth, (5.0, 1.0, 2.0)) == pytest.approx(math.hypot(10, 6))
    assert asd(prediction, truth) == pytest.approx(math.hypot(2, 3))


def test_line_against_its_end_pools_both_directions():
    # Truth: 5 voxels in a row. Prediction: the first of them. Truth -> prediction: 0 1 2 3 4; back: 0.
    prediction, truth = box((4, 8), (1, 2), (0, 1)), box((4, 8), (1, 2), (0, 5))
    to_truth, to_prediction = surface_distances(prediction, truth)
    assert to_truth.tolist() == [0]
    assert sorted(to_prediction.tolist()) == [0, 1, 2, 3, 4]
    # pooled 0 0 1 2 3 4: position .95 x 5 = 4.75 between 3 and 4
    assert hd95(prediction, truth) == pytest.approx(3.75)
    # mean of the directed means 0 and 2, not the pooled mean 10 / 6
    assert asd(prediction, truth) == pytest.approx(1.0)
    assert asd(prediction, truth, (1.0, 0.5)) == pytest.approx(0.5)


def test_shifted_square():
    # A 3 x 3 square and the same one two columns further, so that they share the column 3.
    prediction, truth = box((8, 8), (2, 5), (1, 4)), box((8, 8), (2, 5), (3, 6))
    # The surface is the ring of 8. Column 1: 2 2 2. Column 2 (its centre is inside): 1 1. Column 3: 0 0 0.
    to_truth, to_prediction = surface_distances(prediction, truth)
    assert sorted(to_truth.tolist()) == sorted(to_prediction.tolist()) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert asd(prediction, truth) == pytest.approx(1.0)
    assert hd95(prediction, truth) == 2
    assert dice_score(prediction, truth) == pytest.approx(1 / 3)


def test_nested_squares_use_the_ring_only():
    # 5 x 5 around its own centre voxel. Ring of 16 voxels: 4 at distance 2, 4 at sqrt(8), 8 at sqrt(5).
    prediction, truth = box((7, 7), (1, 6), (1, 6)), box((7, 7), (3, 4), (3, 4))
    to_truth, to_prediction = surface_distances(prediction, truth)
    assert len(to_truth) == 16
    assert to_prediction.tolist() == [2]
    outward = (4 * 2 + 8 * math.sqrt(5) + 4 * math.sqrt(8)) / 16
    assert asd(prediction, truth) == pytest.approx((outward + 2) / 2)


def test_array_border_is_surface():
    # A mask that fills the array: its outer ring is surface (12 of 16 voxels), its inside is not.
    full = np.ones((4, 4), dtype=bool)
    to_truth, to_prediction = surface_distances(full, SQUARE)
    assert len(to_truth) == 12
    assert len(to_prediction) == 4
    # edges at 1 (8 of them), corners at sqrt(2) (4); the square's voxels are each 1 from the ring
    assert asd(full, SQUARE) == pytest.approx(((8 + 4 * math.sqrt(2)) / 12 + 1) / 2)


def test_distances_are_symmetric():
    rng = np.random.default_rng(1)
    a, b = rng.random((6, 9)) > 0.7, rng.random((6, 9)) > 0.7
    assert hd95(a, b, (2, 1)) == hd95(b, a, (2, 1))
    assert asd(a, b, (2, 1)) == asd(b, a, (2, 1))


# --- restatement without transform or crop ---


def brute_force(prediction, truth, spacing):
    """All pairs of surface voxels of the full arrays; the surface by looking at each neighbour."""

    def surface(array):
        padded = np.pad(array, 1)
        points = []
        for index in np.argwhere(array):
            for axis in range(array.ndim):
                for step in (-1, 1):
                    neighbour = index + 1
                    neighbour[axis] += step
                    if not padded[tuple(neighbour)]:
                        points.append(tuple(index))
        return np.array(sorted(set(points))) * np.asarray(spacing)

    a, b = surface(prediction), surface(truth)
    pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return pairs.min(axis=1), pairs.min(axis=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("shape", "spacing"), [((16, 11), (1.0, 1.0)), ((12, 15), (0.7, 2.5)), ((8, 9, 7), (3.0, 0.5, 1.2))]
)
def test_random_blobs_equal_brute_force_on_the_full_array(seed, shape, spacing):
    rng = np.random.default_rng(seed)

    def blob():
        centre = rng.uniform(2, np.array(shape) - 2)
        grid = np.stack(np.indices(shape), axis=-1)
        return ((grid - centre) ** 2).sum(-1) + rng.normal(0, 2, shape) < 9

    prediction, truth = blob(), blob()
    ours, theirs = surface_distances(prediction, truth, spacing), brute_force(prediction, truth, spacing)
    for mine, naive in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.sort(mine), np.sort(naive), rtol=1e-12)
    assert hd95(prediction, truth, spacing) == pytest.approx(np.percentile(np.concatenate(theirs), 95))
    assert asd(prediction, truth, spacing) == pytest.approx((theirs[0].mean() + theirs[1].mean()) / 2)


def test_empty_margin_changes_nothing():
    prediction, truth = box((6, 6), (1, 4), (1, 5)), box((6, 6), (2, 5), (2, 4))
    wide = [np.pad(array, ((3, 0), (9, 2))) for array in (prediction, truth)]
    assert hd95(*wide) == hd95(prediction, truth)
    assert asd(*wide) == asd(prediction, truth)


# --- empty masks, bad input ---


def test_both_empty_is_perfect():
    assert dice_score(EMPTY, EMPTY) == jaccard_score(EMPTY, EMPTY) == 1
    assert hd95(EMPTY, EMPTY) == asd(EMPTY, EMPTY) == 0


@pytest.mark.parametrize(("prediction", "truth"), [(EMPTY, SQUARE), (SQUARE, EMPTY)])
def test_one_empty_is_zero_and_undefined(prediction, truth):
    assert dice_score(prediction, truth) == jaccard_score(prediction, truth) == 0
    assert math.isnan(hd95(prediction, truth))
    assert math.isnan(asd(prediction, truth))
    with pytest.raises(ValueError, match="non-empty"):
        surface_distances(prediction, truth)


@pytest.mark.parametrize("metric", [dice_score, jaccard_score, hd95, asd])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        metric(SQUARE, np.ones((4, 5), dtype=bool))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, math.nan), (-1.0, 1.0)])
def test_bad_spacing_is_named(spacing):
    with pytest.raises(ValueError, match="spacing"):
        hd95(SQUARE, SQUARE, spacing)


# --- counts ---


def test_counts_by_hand_leave_ignored_pixels_out():
    prediction = np.array([[0, 1, 2], [1, 1, 2]])
    truth = np.array([[0, 1, 1], [2, IGNORE, IGNORE]])
    intersection, prediction_size, truth_size = confusion_counts(prediction, truth, 3)
    assert intersection.tolist() == [1, 1, 0]
    assert prediction_size.tolist() == [1, 2, 1]
    assert truth_size.tolist() == [1, 2, 1]
    assert dice_from_counts(intersection, prediction_size, truth_size).tolist() == [1, 0.5, 0]


def test_counts_added_over_slices_are_the_dice_of_the_volume():
    rng = np.random.default_rng(3)
    prediction, truth = rng.integers(0, 4, (5, 6, 7)), rng.integers(-1, 3, (5, 6, 7))
    slices = [confusion_counts(p, t, 5) for p, t in zip(prediction, truth, strict=True)]
    dice = dice_from_counts(*(np.sum(counts, axis=0) for counts in zip(*slices, strict=True)))
    valid = truth != IGNORE
    assert dice.tolist() == pytest.approx(
        [dice_score((prediction == k) & valid, (truth == k) & valid) for k in range(5)]
    )
    assert dice[4] == 1  # class 4 occurs in neither


def test_counts_accept_narrow_dtypes():
    # 200 classes squared do not fit into the uint8 of a PNG
    prediction = truth = np.array([[199, 7]], dtype=np.uint8)
    assert dice_from_counts(*confusion_counts(prediction, truth, 200)).min() == 1


def test_counts_of_a_wholly_ignored_image():
    truth = np.full((2, 2), IGNORE)
    assert dice_from_counts(*confusion_counts(np.ones((2, 2), dtype=int), truth, 2)).tolist() == [1, 1]


@pytest.mark.parametrize(("prediction", "truth", "name"), [([[3]], [[0]], "prediction"), ([[0]], [[-2]], "truth")])
def test_counts_refuse_values_outside_the_classes(prediction, truth, name):
    with pytest.raises(ValueError, match=f"{name} holds values"):
        confusion_counts(np.array(prediction), np.array(truth), 3)


# --- cases and summaries ---


def test_case_scores_statuses():
    truth = np.array([[1, 1, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    prediction = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]])
    records = case_scores(prediction, truth, 5)
    assert [record.class_index for record in records] == [1, 2, 3, 4]
    assert [record.status for record in records] == ["ok", "missed", "false_alarm", "both_empty"]
    assert [record["dice"] for record in records] == [1, 0, 0, 1]
    assert [record["jaccard"] for record in records] == [1, 0, 0, 1]
    assert [math.isnan(record["hd95"]) for record in records] == [False, True, True, False]
    assert records[3]["hd95"] == records[3]["asd"] == 0


def test_case_scores_do_not_see_ignored_pixels():
    truth = np.array([[1, 1, 0, 0], [0, 0, IGNORE, IGNORE]])
    prediction = np.array([[1, 1, 0, 0], [0, 0, 1, 2]])
    first, second = case_scores(prediction, truth, 3)
    assert (first["dice"], first["hd95"], first.status) == (1, 0, "ok")
    assert second.status == "both_empty"


def test_case_scores_agree_with_the_single_metrics():
    rng = np.random.default_rng(5)
    prediction, truth = rng.integers(0, 3, (4, 6, 5)), rng.integers(0, 3, (4, 6, 5))
    spacing = (4.0, 1.0, 0.5)
    for record in case_scores(prediction, truth, 3, spacing):
        masks = prediction == record.class_index, truth == record.class_index
        assert record["dice"] == pytest.approx(dice_score(*masks))
        assert record["jaccard"] == pytest.approx(jaccard_score(*masks))
        assert record["hd95"] == pytest.approx(hd95(*masks, spacing))
        assert record["asd"] == pytest.approx(asd(*masks, spacing))


def test_case_scores_follow_a_permutation_of_the_classes():
    rng = np.random.default_rng(6)
    prediction, truth = rng.integers(0, 4, (9, 8)), rng.integers(0, 4, (9, 8))
    permutation = np.array([0, 3, 1, 2])
    plain = {record.class_index: record for record in case_scores(prediction, truth, 4)}
    for record in case_scores(permutation[prediction], permutation[truth], 4):
        original = plain[int(np.flatnonzero(permutation == record.class_index)[0])]
        assert (record["dice"], record["hd95"], record["asd"]) == (original["dice"], original["hd95"], original["asd"])


def record(index: int, status: ScoreStatus, *values: float) -> ClassScore:
    return ClassScore(index, status, dict(zip(METRICS, values, strict=True)))


RECORDS = [
    record(1, "ok", 0.5, 1 / 3, 2.0, 1.0),
    record(2, "both_empty", 1.0, 1.0, 0.0, 0.0),
    record(1, "missed", 0.0, 0.0, math.nan, math.nan),
    record(2, "ok", 0.8, 2 / 3, 4.0, 3.0),
    record(1, "ok", 1.0, 1.0, 6.0, 2.0),
    record(2, "false_alarm", 0.0, 0.0, math.nan, math.nan),
]


def test_summary_by_hand():
    summary = summarise(RECORDS)
    first, second = summary.classes
    assert (first.class_index, first.n_cases, first.n_missed, first.n_false_alarm) == (1, 3, 1, 0)
    assert (second.n_both_empty, second.n_missed, second.n_false_alarm) == (1, 0, 1)
    assert first["dice"].mean == pytest.approx(0.5)
    assert first["dice"].std == pytest.approx(math.sqrt(1 / 6))
    assert first["dice"].median == 0.5
    # the miss counts as Dice 0, and beside the mean distance it counts as undefined
    assert (first["hd95"].mean, first["hd95"].n_defined, first["hd95"].n_undefined) == (4, 2, 1)
    assert (first["dice"].n_defined, first["dice"].n_undefined) == (3, 0)
    assert summary.mean["dice"] == pytest.approx((0.5 + 0.6) / 2)
    assert summary.mean["hd95"] == pytest.approx((4 + 2) / 2)
    assert summary.n_undefined == {"dice": 0, "jaccard": 0, "hd95": 2, "asd": 2}


def test_summary_does_not_depend_on_the_order_of_cases():
    forward, backward = summarise(RECORDS), summarise(RECORDS[::-1])
    assert forward.mean == pytest.approx(backward.mean)
    for one, other in zip(forward.classes, backward.classes, strict=True):
        assert one["hd95"].mean == pytest.approx(other["hd95"].mean)
        assert one["dice"].std == pytest.approx(other["dice"].std)
        assert one.n_cases == other.n_cases


def test_a_class_never_found_makes_the_mean_distance_undefined():
    never = [record(2, "missed", 0.0, 0.0, math.nan, math.nan)]
    summary = summarise([record for record in RECORDS if record.class_index == 1] + never)
    assert math.isnan(summary.classes[1]["hd95"].mean)
    assert math.isnan(summary.mean["hd95"])
    assert summary.mean["dice"] == pytest.approx(0.25)


def test_summary_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no score"):
        summarise([])

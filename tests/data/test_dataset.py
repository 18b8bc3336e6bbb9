from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from knowsam.data import dataset as module
from knowsam.data.dataset import IndexStream, SliceStore, StepDataset, decode_case, scoring_volumes
from knowsam.data.folder import DataFolder, scan_folder
from knowsam.data.labels import LabelCoding
from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from support.folders import make_folder, make_image, make_nifti_folder, save_picture

CODING = LabelCoding((0, 1, 2), ("a", "b", "c"))
PREPROCESSING = Preprocessing((32, 32), 1)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return scan_folder(make_folder(tmp_path, n_images=8, n_masks=3))


def stores(folder: DataFolder, cache_mb: float = 4096.0) -> tuple[SliceStore, SliceStore]:
    cases = list(folder.cases.values())
    labelled = SliceStore([c for c in cases if c.label], PREPROCESSING, CODING, cache_mb)
    unlabelled = SliceStore([c for c in cases if not c.label], PREPROCESSING, None, cache_mb)
    labelled.fill()
    unlabelled.fill()
    return labelled, unlabelled


@pytest.mark.parametrize("n", [1, 5, 7])
def test_index_stream_gives_every_item_once_per_epoch(n: int) -> None:
    stream = IndexStream(n, seed=0, name="labelled")
    drawn = stream.take(range(10 * n))
    for epoch in range(10):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_index_stream_is_addressed_by_position() -> None:
    forward = IndexStream(5, 0, "x").take(range(100))
    backward = IndexStream(5, 0, "x").take(range(99, -1, -1))
    assert forward == backward[::-1]
    assert IndexStream(5, 0, "x").take([77]) == [forward[77]]


def test_index_stream_shuffles_by_epoch_seed_and_name() -> None:
    first = IndexStream(50, 0, "labelled").take(range(100))
    assert first[:50] != first[50:]
    assert first != IndexStream(50, 1, "labelled").take(range(100))
    assert first != IndexStream(50, 0, "unlabelled").take(range(100))


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_all_processes_make_the_batch_of_one(folder: DataFolder, world: int) -> None:
    labelled, unlabelled = stores(folder)
    alone = StepDataset(labelled, unlabelled, (4, 8), 7, seed=3)
    shares = [StepDataset(labelled, unlabelled, (4, 8), 7, 3, rank, world) for rank in range(world)]
    assert len(alone) == 7
    for step in range(7):
        whole, parts = alone[step], [share[step] for share in shares]
        assert torch.equal(whole.labelled_image, torch.cat([p.labelled_image for p in parts]))
        assert torch.equal(whole.label, torch.cat([p.label for p in parts]))
        assert torch.equal(whole.unlabelled_image, torch.cat([p.unlabelled_image for p in parts]))
        assert whole.labelled_stems == tuple(s for p in parts for s in p.labelled_stems)
        assert whole.unlabelled_stems == tuple(s for p in parts for s in p.unlabelled_stems)


def test_steps_go_through_each_half_evenly(folder: DataFolder) -> None:
    labelled, unlabelled = stores(folder)
    dataset = StepDataset(labelled, unlabelled, (2, 5), 6, seed=0)
    seen = Counter(stem for step in range(6) for stem in dataset[step].labelled_stems)
    assert seen == {f"case_{i}": 4 for i in range(3)}
    seen = Counter(stem for step in range(6) for stem in dataset[step].unlabelled_stems)
    assert seen == {f"case_{i}": 6 for i in range(3, 8)}


def test_a_batch_belongs_to_its_stems(folder: DataFolder) -> None:
    labelled, unlabelled = stores(folder)
    batch = StepDataset(labelled, unlabelled, (3, 2), 1, seed=0)[0]
    assert batch.labelled_image.dtype == torch.float32
    assert batch.label.dtype == torch.int64
    by_name = {labelled[i][2]: labelled[i] for i in range(3)}
    for image, label, stem in zip(batch.labelled_image, batch.label, batch.labelled_stems, strict=True):
        assert torch.equal(image, by_name[stem][0])
        assert torch.equal(label, by_name[stem][1])


@pytest.mark.parametrize("batch", [(3, 4), (4, 3)])
def test_a_batch_that_does_not_divide_by_the_processes_is_refused(folder: DataFolder, batch: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"batch: 3 .* on 2 processes"):
        StepDataset(*stores(folder), batch, 1, 0, rank=0, world=2)


def test_a_batch_of_no_unlabelled_images_has_no_unlabelled_half(folder: DataFolder) -> None:
    batch = StepDataset(*stores(folder), (2, 0), 1, seed=0)[0]
    assert batch.unlabelled_image is None
    assert len(batch.labelled_image) == 2


def test_a_full_cache_changes_nothing_but_time(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def record(case, *arguments):
        decoded.append(case.stem)
        return decode_case(case, *arguments)

    monkeypatch.setattr(module, "decode_case", record)
    whole, _ = stores(folder)
    assert len(decoded) == 8
    assert all(whole[i] for i in range(3))
    assert len(decoded) == 8  # nothing is decoded twice
    one_case = (2 + 2) * 32 * 32 / 2**20
    small, _ = stores(folder, cache_mb=1.5 * one_case)
    decoded.clear()
    for i in range(3):
        for found, expected in zip(small[i][:2], whole[i][:2], strict=True):
            assert torch.equal(found, expected)
    assert decoded == ["case_1", "case_2"]


def test_volumes_count_by_slice_and_name_them(tmp_path: Path) -> None:
    folder = scan_folder(make_nifti_folder(tmp_path))
    store = SliceStore([folder.cases["vol_0"], folder.cases["vol_1"]], PREPROCESSING, CODING)
    advanced: list[int] = []
    store.fill(lambda: advanced.append(1))
    assert len(store) == 2 * 5
    assert len(advanced) == 2
    assert [store[i][2] for i in (0, 4, 5)] == ["vol_0:0", "vol_0:4", "vol_1:0"]


@pytest.mark.parametrize("cache_mb", [4096.0, 0.0])
def test_all_labels_are_those_of_the_slices_and_each_case_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_mb: float
) -> None:
    folder = scan_folder(make_nifti_folder(tmp_path))
    store = SliceStore([case for case in folder.cases.values() if case.label], PREPROCESSING, CODING, cache_mb)
    store.fill()
    wanted = [store[index][1] for index in range(len(store))]
    decoded: list[str] = []
    monkeypatch.setattr(
        module, "decode_case", lambda case, *rest: decoded.append(case.stem) or decode_case(case, *rest)
    )
    found = list(store.labels())
    assert len(found) == len(wanted) > len(store.cases)
    assert all(
        label.dtype == torch.int64 and torch.equal(label, same) for label, same in zip(found, wanted, strict=True)
    )
    assert decoded == ([] if cache_mb else [case.stem for case in store.cases])


def test_an_unlabelled_cases_mask_is_never_opened(folder: DataFolder) -> None:
    case = folder.cases["case_0"]
    case.label.write_bytes(b"no mask at all")
    assert decode_case(case, PREPROCESSING, None).labels is None
    with pytest.raises(InputError, match="case_0"):
        decode_case(case, PREPROCESSING, CODING)


def test_a_labelled_case_without_mask_is_named(folder: DataFolder) -> None:
    with pytest.raises(InputError, match=r"case_5\.png: no mask was found"):
        decode_case(folder.cases["case_5"], PREPROCESSING, CODING)


def test_a_mask_of_another_size_is_named(folder: DataFolder) -> None:
    save_picture(folder.cases["case_0"].label, make_image((8, 8)) * 0)
    with pytest.raises(InputError, match="case_0"):
        decode_case(folder.cases["case_0"], PREPROCESSING, CODING)


def test_scoring_volumes_gather_slices_at_native_size(tmp_path: Path) -> None:
    root = make_folder(tmp_path, n_images=3, n_masks=3)
    (root / "groups.csv").write_text("stem,group,volume\ncase_0,p,v\ncase_1,p,v\ncase_2,q,w\n")
    volumes = list(scoring_volumes(list(scan_folder(root).cases.values()), PREPROCESSING, CODING))
    assert [(v.name, tuple(v.images.shape), len(v.labels)) for v in volumes] == [
        ("v", (2, 1, 32, 32), 2),
        ("w", (1, 1, 32, 32), 1),
    ]
    assert volumes[0].labels[0].shape == (32, 40)
    assert volumes[0].labels[0].dtype == torch.int64


def test_a_validation_case_without_mask_is_named(folder: DataFolder) -> None:
    with pytest.raises(InputError, match=r"case_7\.png: no mask was found.*val\.txt"):
        list(scoring_volumes([folder.cases["case_7"]], PREPROCESSING, CODING))


def test_pretraining_steps_hold_labelled_images_alone_and_skip_none(folder: DataFolder) -> None:
    labelled, unlabelled = stores(folder)
    dataset = StepDataset(labelled, unlabelled, (2, 1), 7, seed=0, labelled_only_steps=2)
    batches = [dataset[step] for step in range(7)]
    assert [len(batch.labelled_stems) for batch in batches] == [3, 3, 2, 2, 2, 2, 2]
    assert [batch.unlabelled_image is None for batch in batches] == [True, True, *[False] * 5]
    # 3 + 3 + 2 x 5 = 16 labelled images are the stream's first 16, and the unlabelled ones its first 5.
    seen = [stem for batch in batches for stem in batch.labelled_stems]
    assert seen == [labelled[i][2] for i in IndexStream(len(labelled), 0, "labelled").take(range(16))]
    seen = [stem for batch in batches for stem in batch.unlabelled_stems]
    assert seen == [unlabelled[i][2] for i in IndexStream(len(unlabelled), 0, "unlabelled").take(range(5))]

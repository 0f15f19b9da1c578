import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2ls.data import io as files
from d2ls.data.augment import Augmentation, normalise, normalise_batch
from d2ls.data.dataset import SampleRequest, SegmentationDataset
from d2ls.data.pairs import Pair, match
from d2ls.errors import DataError
from tests.data.folders import SPEC, labels, synthetic_dataset, write_pair

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

AUGMENTATION = Augmentation(crop=24, scales=(0.5, 1, 1.5), smart_crop=0.6, mosaic=0.5, rot90=0.5, flip=0.5)


def test_evaluation_gives_the_files_themselves(tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(30, 41), (64, 64)], None)
    assert len(dataset) == 2
    sample = dataset[0]
    pair = dataset.pairs[0]
    assert sample["name"] == "p0"
    assert sample["path"] == str(pair.image)
    assert sample["image"].dtype == torch.float32
    assert np.array_equal(sample["image"], normalise(files.read_image(pair.image)))
    assert sample["mask"].dtype == torch.int64
    assert np.array_equal(sample["mask"], labels(30, 41, 0))
    assert torch.equal(dataset[0]["image"], sample["image"])


def test_no_mask_where_there_is_none(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "i", tmp_path / "m", "x")
    assert set(SegmentationDataset(SPEC, lambda: [Pair(pair.image, None, "x")])[0]) == {"image", "name", "path"}


def test_a_sample_depends_on_its_seed_alone(tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(64, 64)] * 3, AUGMENTATION)
    first = [dataset[SampleRequest(1, seed)] for seed in range(8)]
    torch.manual_seed(1)
    np.random.seed(1)
    again = [dataset[SampleRequest(1, seed)] for seed in reversed(range(8))][::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])
    assert len({sample["image"].numpy().tobytes() for sample in first}) == 8


def test_plain_indices_take_their_seed_from_torch(tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(64, 64)], AUGMENTATION)
    torch.manual_seed(3)
    one, other = dataset[0], dataset[0]
    torch.manual_seed(3)
    assert torch.equal(dataset[0]["image"], one["image"])
    assert not torch.equal(one["image"], other["image"])


def test_every_pixel_keeps_its_label(tmp_path: Path) -> None:
    """Images that show their labels, through the whole augmentation without resizing."""
    pairs = [write_pair(tmp_path / "i", tmp_path / "m", f"p{n}", seed=n) for n in range(4)]
    for pair in pairs:
        files.write_png(pair.image, np.stack([files.read_index(pair.mask) * 80] * 3, -1))
    augmentation = Augmentation(crop=80, mosaic=0.5, rot90=0.5, flip=0.5)
    dataset = SegmentationDataset(SPEC, pairs.copy, augmentation=augmentation)
    shown = torch.from_numpy(normalise(np.full((1, 3, 3), [[[0] * 3, [80] * 3, [160] * 3]], np.uint8))[0][0])
    for seed in range(30):
        sample = dataset[SampleRequest(seed % 4, seed)]
        known = sample["mask"] != SPEC.ignore_index
        assert known.any()
        assert torch.equal(sample["image"][0][known], shown[sample["mask"][known]])
        assert (sample["image"][0][~known] == shown[0]).all()


def test_the_disk_is_touched_at_first_use(tmp_path: Path) -> None:
    dataset = SegmentationDataset(SPEC, partial(match, tmp_path / "i", tmp_path / "m", "Make it."))
    with pytest.raises(DataError, match=r"no such folder\. Make it\."):
        len(dataset)
    write_pair(tmp_path / "i", tmp_path / "m", "x")
    assert len(dataset) == 1
    write_pair(tmp_path / "i", tmp_path / "m", "y")
    assert len(dataset) == 1  # listed once


def test_can_be_sent_to_a_process(tmp_path: Path) -> None:
    write_pair(tmp_path / "i", tmp_path / "m", "x")
    dataset = SegmentationDataset(SPEC, partial(match, tmp_path / "i", tmp_path / "m", ""), augmentation=AUGMENTATION)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[SampleRequest(0, 5)]["image"], dataset[SampleRequest(0, 5)]["image"])


def test_iteration_ends(tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(8, 8)] * 3, None)
    assert [sample["name"] for sample in dataset] == ["p0", "p1", "p2"]


def test_bad_pairs_are_named(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "i", tmp_path / "m", "x")
    dataset = SegmentationDataset(SPEC, lambda: [pair])
    files.write_png(pair.mask, labels(32, 64, 0))
    with pytest.raises(DataError, match=r"m/x.png: 64 x 32 pixels, but its image x.png has 64 x 64"):
        dataset[0]
    files.write_png(pair.mask, np.full((64, 64), 3, np.uint8))
    with pytest.raises(DataError, match=r"m/x.png: values 3 \(4096 pixels\)"):
        dataset[0]
    pair.image.write_bytes(b"")
    with pytest.raises(DataError, match=r"i/x.png: the file is empty"):
        dataset[0]


def test_raw_samples_become_the_usual_ones(tmp_path: Path) -> None:
    usual = synthetic_dataset(tmp_path, [(40, 40)] * 2, AUGMENTATION)
    raw = SegmentationDataset(SPEC, usual.pairs.copy, augmentation=AUGMENTATION, normalise=False)
    for seed in range(4):
        one, other = usual[SampleRequest(1, seed)], raw[SampleRequest(1, seed)]
        assert other["image"].dtype == other["mask"].dtype == torch.uint8
        assert torch.equal(other["mask"].long(), one["mask"])
        torch.testing.assert_close(normalise_batch(other["image"][None], SPEC)[0], one["image"])


def test_a_pipeline_of_albumentations_is_part_of_the_sample(tmp_path: Path) -> None:
    pipeline = A.Compose([A.RandomBrightnessContrast(p=0.5), A.Affine(rotate=45, p=0.5)])
    dataset = synthetic_dataset(tmp_path, [(64, 64)] * 2, replace(AUGMENTATION, augment=pipeline))
    plain = SegmentationDataset(SPEC, dataset.pairs.copy, augmentation=AUGMENTATION)
    copy = pickle.loads(pickle.dumps(dataset))
    changed = 0
    for seed in range(12):
        sample, again = dataset[SampleRequest(0, seed)], copy[SampleRequest(0, seed)]
        assert torch.equal(sample["image"], again["image"])
        assert torch.equal(sample["mask"], again["mask"])
        changed += not torch.equal(sample["image"], plain[SampleRequest(0, seed)]["image"])
    assert 3 <= changed < 12


def test_a_mask_of_the_unrotated_photograph_is_told(tmp_path: Path) -> None:
    """Cameras store photographs lying down; images are read upright, as annotation programs show them."""
    (tmp_path / "m").mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    pair = Pair(tmp_path / "x.jpg", tmp_path / "m" / "x.png", "x")
    files.write_png(pair.mask, labels(30, 20, 0))
    dataset = SegmentationDataset(SPEC, lambda: [pair])
    assert dataset[0]["image"].shape == (3, 30, 20)
    files.write_png(pair.mask, labels(20, 30, 0))
    with pytest.raises(DataError, match=r"m/x.png: 30 x 20 .*x.jpg has 20 x 30.*orientation 6"):
        dataset[0]

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d2ls.data.check import check_headers, count_labels
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.pairs import match
from d2ls.data.spec import DatasetSpec
from tests.data.folders import write_pair

SPEC = DatasetSpec(name="own", classes=("a", "b", "c"), colours=((0, 0, 1), (0, 0, 2), (0, 0, 3)), ignore_index=255)


@pytest.fixture
def dataset(tmp_path: Path) -> SegmentationDataset:
    """Six pairs of 20 x 30 pixels with the labels 0 and 1."""
    for number in range(6):
        write_pair(tmp_path / "images", tmp_path / "masks", f"{number}", size=(20, 30))
        Image.fromarray(np.full((20, 30), number % 2, np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return SegmentationDataset(SPEC, lambda: match(tmp_path / "images", tmp_path / "masks", ""))


def test_a_clean_set_has_no_problems_and_its_labels_are_counted(dataset: SegmentationDataset) -> None:
    steps: list[int] = []
    assert check_headers(dataset, lambda: steps.append(1)) == []
    counts = count_labels(dataset, lambda: steps.append(1))
    assert len(steps) == 12
    assert counts.problems == []
    assert counts.pixels.nonzero()[0].tolist() == [0, 1]
    assert counts.pixels[:2].tolist() == [1800, 1800]


def test_every_faulty_file_is_named_in_order(dataset: SegmentationDataset, tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    image = dataset.pairs[1].image
    image.write_bytes(image.read_bytes()[:10])
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(dataset.pairs[2].image)
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(dataset.pairs[3].image)
    Image.fromarray(np.zeros((21, 30), np.uint8)).save(masks / "4.png")
    (masks / "5.png").write_bytes(b"")
    problems = check_headers(dataset)
    assert len(problems) == 5
    for problem, (path, words) in zip(
        problems,
        (
            (image, ""), (dataset.pairs[2].image, "8-bit grey"), (dataset.pairs[3].image, "16-bit"),
            (masks / "4.png", "30 x 21"), (masks / "5.png", ""),
        ),
        strict=True,
    ):  # fmt: skip
        assert problem.startswith(f"{path}: ")
        assert words in problem
    assert images.name in problems[0]


def test_a_mask_with_other_values_is_told_and_not_counted(dataset: SegmentationDataset, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(tmp_path / "masks" / "5.png")
    counts = count_labels(dataset)
    assert len(counts.problems) == 1
    assert "5.png" in counts.problems[0]
    assert "9 (600 pixels)" in counts.problems[0]
    assert counts.pixels.sum() == 5 * 600


class Own(torch.utils.data.Dataset):
    def __init__(self, highest: int) -> None:
        self.highest = highest

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        torch.rand(())
        return {"mask": torch.tensor([[0, self.highest]])} if index else {}


def test_data_sets_of_the_users_own_classes() -> None:
    state = torch.random.get_rng_state()
    assert check_headers(Own(2)) == []
    counts = count_labels(Own(2))
    assert counts.pixels[[0, 2]].tolist() == [2, 2]
    assert len(count_labels(Own(256)).problems) == 2
    assert torch.equal(torch.random.get_rng_state(), state)

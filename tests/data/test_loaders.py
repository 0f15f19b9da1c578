import multiprocessing
import platform
import resource
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2ls.data import loaders as loading
from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SampleRequest, SegmentationDataset
from d2ls.data.loaders import DistributedEvalSampler, SeededSampler, collate, evaluation_loader, training_loader
from d2ls.data.sets import grass
from d2ls.errors import DataError
from d2ls.memory import keep_freed_memory
from tests.data.folders import SPEC, synthetic_dataset

AUGMENTATION = Augmentation(crop=24, scales=(0.5, 1, 1.5), smart_crop=0.6, mosaic=0.5, rot90=0.5, flip=0.5)


def epoch(dataset: SegmentationDataset, workers: int, number: int = 0) -> list[tuple[list[str], bytes, bytes]]:
    """Names and contents of an epoch's batches of 2."""
    loader = training_loader(dataset, 2, num_workers=workers)
    loader.sampler.set_epoch(number)
    return [(batch["name"], batch["image"].numpy().tobytes(), batch["mask"].numpy().tobytes()) for batch in loader]


@pytest.mark.parametrize(
    "augmentation", [AUGMENTATION, replace(grass.AUGMENTATION, mosaic=0.5)], ids=["crop", "colour"]
)
def test_any_number_of_workers_gives_the_same_epoch(augmentation: Augmentation, tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(40, 40)] * 7, augmentation)
    alone = epoch(dataset, 0)
    assert len(alone) == 3
    assert epoch(dataset, 1) == alone
    assert epoch(dataset, 2) == alone
    assert epoch(dataset, 0) == alone
    assert epoch(dataset, 2, number=1) != alone


def test_an_epoch_through_one_loader_again(tmp_path: Path) -> None:
    loader = training_loader(synthetic_dataset(tmp_path, [(40, 40)] * 6, AUGMENTATION), 2, num_workers=1)
    orders = []
    for number in (0, 1, 0):
        loader.sampler.set_epoch(number)
        orders.append(
            [(name, value) for batch in loader for name, value in zip(batch["name"], batch["image"], strict=True)]
        )
    assert all(torch.equal(one[1], other[1]) for one, other in zip(orders[0], orders[2], strict=True))
    assert [name for name, _ in orders[0]] != [name for name, _ in orders[1]]
    assert sorted(name for name, _ in orders[0]) == [f"p{number}" for number in range(6)]


def test_the_sampler_shuffles_and_drops_the_rest() -> None:
    sampler = SeededSampler(range(10), 4)
    requests = list(sampler)
    assert len(sampler) == len(requests) == 8
    assert len({request.index for request in requests}) == 8
    assert len({request.seed for request in requests}) == 8
    assert requests == list(SeededSampler(range(10), 4))
    assert requests != list(SeededSampler(range(10), 4, seed=43))


def test_each_index_comes_first_alike() -> None:
    sampler = SeededSampler(range(4), 4)
    firsts = []
    for number in range(800):
        sampler.set_epoch(number)
        firsts.append(next(iter(sampler)).index)
    assert np.abs(np.bincount(firsts) - 200).max() < 4 * 12.3


@given(st.lists(st.floats(0, 9), min_size=1, max_size=20), st.integers(0, 99))
def test_images_come_as_often_as_their_weights_say(values: list[float], seed: int) -> None:
    weights = np.array(values)
    weights[-1] += not weights.any()
    sampler = SeededSampler(range(len(weights)), 1, seed=seed)
    sampler.set_weights(weights)
    requests = list(sampler)
    wanted = len(weights) * weights / weights.sum()
    found = np.bincount([request.index for request in requests], minlength=len(weights))
    assert (found >= np.floor(wanted - 1e-9)).all()
    assert (found <= np.ceil(wanted + 1e-9)).all()
    assert not found[weights == 0].any()
    assert len({request.seed for request in requests}) == len(weights), "the same image is another sample each time"


def test_weighted_images_come_in_random_order_at_the_right_rate() -> None:
    weights = np.array([1, 2, 3, 0.5])
    sampler = SeededSampler(range(4), 4)
    sampler.set_weights(weights)
    orders = []
    for number in range(2000):
        sampler.set_epoch(number)
        orders.append([request.index for request in sampler])
    for column in np.transpose(orders):  # at each position alike
        shares = np.bincount(column, minlength=4) / len(orders)
        assert np.abs(shares - weights / weights.sum()).max() < 4 * np.sqrt(0.25 / len(orders))


def test_a_weighted_epoch_goes_on_inside_and_knows_its_weights() -> None:
    def sampler(*weights: float, batch: int = 2, **place: int) -> SeededSampler:
        result = SeededSampler(range(5), batch, **place)
        if weights:
            result.set_weights(np.array(weights))
        return result

    whole = list(sampler(1, 9, 1, 2, 3))
    later = sampler(1, 9, 1, 2, 3)
    later.begin_at(0, 1)
    assert list(later) == whole[2:]
    orders = [sampler(*weights).order() for weights in ((), (1, 9, 1, 2, 3), (1, 9, 1, 2, 4))]
    assert orders[0] == {"seed": 42, "images": 5, "batch_size": 2, "processes": 1}, "that of older checkpoints"
    assert orders[0] != orders[1] != orders[2]
    ranks = [list(sampler(1, 9, 1, 2, 3, batch=1, rank=rank, world=2)) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(sampler(1, 9, 1, 2, 3, batch=2, rank=0, world=1))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_make_the_batches_of_one_process(world: int) -> None:
    batch = 2
    ranks = [list(SeededSampler(range(25), batch, rank=rank, world=world)) for rank in range(world)]
    joint = list(SeededSampler(range(25), batch * world, rank=0, world=1))
    assert {len(requests) for requests in ranks} == {len(joint) // world}
    for step in range(len(joint) // (batch * world)):
        parts = {request for requests in ranks for request in requests[step * batch : (step + 1) * batch]}
        assert parts == set(joint[step * batch * world : (step + 1) * batch * world])


@pytest.mark.parametrize(("images", "batch", "world", "offer"), [(3, 4, 1, 3), (7, 4, 2, 3), (0, 1, 1, 1)])
def test_less_than_a_batch_is_an_error(images: int, batch: int, world: int, offer: int) -> None:
    sampler = SeededSampler(range(images), batch, rank=0, world=world)
    words = f"{images} training images are too few for a batch of {batch} on each of {world}.* to {offer} or less"
    with pytest.raises(DataError, match=words):
        len(sampler)
    with pytest.raises(DataError, match=words):
        next(iter(sampler))


def test_a_loader_tells_of_too_few_images(tmp_path: Path) -> None:
    loader = training_loader(synthetic_dataset(tmp_path, [(40, 40)] * 3, AUGMENTATION), 4, num_workers=0)
    with pytest.raises(DataError, match="3 training images are too few"):
        len(loader)
    with pytest.raises(DataError, match="3 training images are too few"):
        next(iter(loader))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_image_is_evaluated_once(world: int) -> None:
    samplers = [DistributedEvalSampler(range(7), rank=rank, world=world) for rank in range(world)]
    assert sorted(index for sampler in samplers if not sampler.is_padding for index in sampler) == list(range(7))
    shares = [list(sampler) for sampler in samplers]
    assert all(shares), "a process without an image would not keep step"
    assert [len(DistributedEvalSampler(range(7), rank=rank, world=world)) for rank in range(world)] == [
        len(share) for share in shares
    ]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_evaluation_is_in_order_and_of_any_size(tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(20, 30), (8, 8), (41, 9)], None)
    batches = list(evaluation_loader(dataset, num_workers=2))
    assert [batch["name"] for batch in batches] == [["p0"], ["p1"], ["p2"]]
    assert [tuple(batch["mask"].shape) for batch in batches] == [(1, 20, 30), (1, 8, 8), (1, 41, 9)]


def test_a_batch_of_different_sizes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"differ in size: 30 x 20 \(.*p0.png\) and 8 x 8 \(.*p1.png\)"):
        next(iter(evaluation_loader(synthetic_dataset(tmp_path, [(20, 30), (8, 8)], None), 2, num_workers=0)))


def test_a_batch_with_and_without_masks_is_an_error(tmp_path: Path) -> None:
    with_mask = synthetic_dataset(tmp_path, [(8, 8)], None)[0]
    without = {key: value for key, value in with_mask.items() if key != "mask"}
    assert set(collate([without, without])) == {"image", "name", "path"}
    with pytest.raises(DataError, match="no mask, but other images"):
        collate([with_mask, without])


@pytest.mark.parametrize(("cores", "processes", "expected"), [(2, None, 2), (64, "4", 8), (6, "4", 1), (3, "8", 1)])
def test_automatic_number_of_workers(
    cores: int, processes: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    loader = evaluation_loader(SegmentationDataset(SPEC, list))
    assert loader.num_workers == expected
    assert loader.persistent_workers


def test_options_of_the_loader_are_settings() -> None:
    dataset = SegmentationDataset(SPEC, list, augmentation=AUGMENTATION)
    loader = training_loader(dataset, 2, num_workers=1, prefetch_factor=5, persistent_workers=False, pin_memory=False)
    assert (loader.prefetch_factor, loader.persistent_workers, loader.pin_memory) == (5, False, False)
    alone = training_loader(dataset, 2, num_workers=0, prefetch_factor=5, persistent_workers=True)
    assert (alone.prefetch_factor, alone.persistent_workers) == (None, False)


def test_constructing_touches_nothing() -> None:
    def listing() -> list:
        raise AssertionError("listed too early")

    training_loader(SegmentationDataset(SPEC, listing, augmentation=AUGMENTATION), 2)
    evaluation_loader(SegmentationDataset(SPEC, listing))


def test_requests_are_what_a_dataset_takes(tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(40, 40)] * 2, AUGMENTATION)
    request = next(iter(SeededSampler(dataset, 2)))
    assert isinstance(request, SampleRequest)
    assert dataset[request]["name"] == f"p{request.index}"


def test_an_error_in_a_worker_keeps_its_message(tmp_path: Path) -> None:
    dataset = synthetic_dataset(tmp_path, [(8, 8)], None)
    dataset.pairs[0].image.write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        next(iter(evaluation_loader(dataset, num_workers=1)))


def faults(keep: bool, answer: Connection) -> None:
    """Send how many pages are new to this process where 8 MB in two pieces are asked for, used and given back again."""
    if keep:
        keep_freed_memory(loading.WORKER_MEMORY)
    np.ones(1 << 22, np.uint8)  # the first time all is new
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        pieces = [np.ones(1 << 22, np.uint8) for _ in range(2)]
        del pieces
    answer.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc only")
def test_a_worker_keeps_the_memory_that_it_frees() -> None:
    context, found = multiprocessing.get_context("fork"), []
    for keep in (False, True):
        ours, theirs = context.Pipe()
        process = context.Process(target=faults, args=(keep, theirs))
        process.start()
        found.append(ours.recv())
        process.join()
    without, kept = found  # without, up to 20 480: it depends on what else is in this process's memory
    assert kept < 4096  # two pieces of 1024 pages, and a few
    assert kept < without + 1024

"""predict.py --gpus: processes share the rasters without collisions; here on the CPU."""

import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest

from d2ls.cli import predict_run
from d2ls.data.sets import vaihingen
from tests.cli.test_predict import CheckpointOf, files, read, run, write_scene


@pytest.mark.slow
def test_processes_share_a_folder(checkpoint: CheckpointOf, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for number, name in enumerate("abcde"):
        write_scene(tmp_path / "in" / f"{name}.tif", 40, 50 + number)
    (tmp_path / "in" / "bad.tif").write_text("no raster")
    words = ("-w", checkpoint(vaihingen.SPEC), "-i", tmp_path / "in", "--device", "cpu")
    assert run(*words, "-o", tmp_path / "one") == 2
    capfd.readouterr()
    assert run(*words, "-o", tmp_path / "two", "--gpus", "2") == 2
    told = capfd.readouterr()
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert told.out.count("megapixels/s") == 5
    assert told.err.count("bad.tif: cannot") == told.err.count("\n") == 1
    for name in "abcde":
        np.testing.assert_array_equal(*(read(tmp_path / folder / f"{name}.tif") for folder in ("one", "two")))
    assert run("-w", tmp_path / "no.ckpt", *words[2:], "-o", tmp_path / "none", "--gpus", "2") == 2
    assert capfd.readouterr().err.count("\n") == 1  # not once a process
    assert files(tmp_path / "none") == set()


def test_every_raster_is_taken_once() -> None:
    rasters, found, taken = [Path(f"{n}.tif") for n in range(500)], [], multiprocessing.Value("l", 0)
    threads = [threading.Thread(target=lambda: found.extend(predict_run._next(rasters, taken))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(rasters)

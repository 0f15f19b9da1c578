import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2ls.data import io as files
from d2ls.data.sets import potsdam, vaihingen
from d2ls.data.sets.layout import OriginalTile
from d2ls.errors import DataError
from d2ls.preparation.steps import split_all
from tests.preparation import oracle
from tests.preparation.test_tiling import tiling

ROOT = Path(__file__).resolve().parents[2]


def tiles(folder, number=4):
    made = []
    for at in range(number):
        image, mask = oracle.draw(np.random.default_rng(at), (70, 90), cars=0.3)
        oracle.save(folder / f"i{at}.png", image)
        oracle.save(folder / f"m{at}.png", mask)
        made.append(OriginalTile(f"tile{at}", folder / f"i{at}.png", folder / f"m{at}.png"))
    return made


def test_the_number_of_processes_changes_nothing(tmp_path):
    originals = tiles(tmp_path / "in")
    reports = [
        split_all(originals, tiling(tmp_path / str(workers), variants=3, oversample_class=4), workers)
        for workers in (1, 3)
    ]
    assert oracle.hashes(tmp_path / "1") == oracle.hashes(tmp_path / "3")
    assert reports[0].written == reports[1].written
    assert any(name.count("_") == 3 for name in reports[0].written)
    np.testing.assert_array_equal(reports[0].pixels, reports[1].pixels)


def test_a_full_disk_leaves_whole_files_and_a_second_run_completes_them(tmp_path, monkeypatch):
    originals = tiles(tmp_path / "in")
    split_all(originals, tiling(tmp_path / "clean"), 1)
    clean, write = oracle.hashes(tmp_path / "clean"), Path.replace
    left = 20

    def full(path, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return write(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(DataError, match=r"tile\d_0_\d+\.\w+: cannot be written: No space left on device"):
            split_all(originals, tiling(tmp_path / "out"), 1)
    found = oracle.hashes(tmp_path / "out")
    assert len(found) == 20
    assert found.items() <= clean.items()
    split_all(originals, tiling(tmp_path / "out"), 1)
    assert oracle.hashes(tmp_path / "out") == clean


def test_patches_of_other_settings_are_reported_and_kept(tmp_path):
    originals = tiles(tmp_path / "in")
    split_all(originals, tiling(tmp_path / "out", stride=(8, 8)), 1)
    (tmp_path / "out/images/another_0_99.tif").write_bytes(b"")
    before = oracle.hashes(tmp_path / "out").keys()
    report = split_all(originals, tiling(tmp_path / "out"), 1)
    assert len(report.notes) == 2
    assert "tile0_0_" in report.notes[0]
    assert "another" not in "".join(report.notes)
    assert oracle.hashes(tmp_path / "out").keys() > before
    assert not split_all(originals, tiling(tmp_path / "new"), 1).notes


def test_a_tile_with_faulty_labels_is_told(tmp_path):
    image, mask = oracle.draw(np.random.default_rng(0), (64, 64))
    originals = []
    for name in ("7_9", "7_10"):
        files_of = [tmp_path / "in" / f"top_potsdam_{name}_{what}.png" for what in ("RGB", "label")]
        for path, pixels in zip(files_of, (image, mask), strict=True):
            oracle.save(path, pixels)
        originals.append(OriginalTile(f"top_potsdam_{name}", *files_of))
    notes = split_all(originals, tiling(tmp_path / "out", spec=potsdam.SPEC, faulty=("top_potsdam_7_10",)), 1).notes
    assert len(notes) == 1
    assert "top_potsdam_7_10_label.png: the official labels of this tile are faulty" in notes[0]
    assert not split_all(originals, tiling(tmp_path / "other"), 1).notes, "another data set's tile of that name"


def test_unfinished_files_of_a_killed_run_go_away_and_others_stay(tmp_path):
    originals = tiles(tmp_path / "in")
    settings = tiling(tmp_path / "out")
    old, foreign = settings.images / ".tile0_0_1.abc.part", settings.images / ".other_0_1.abc.part"
    for path in (old, foreign):
        path.write_bytes(b"half")
        os.utime(path, (1e9, 1e9))
    fresh = settings.masks / ".tile0_0_2.abc.part"
    fresh.write_bytes(b"of a run beside this one")
    os.utime(fresh, (4e9, 4e9))
    split_all(originals, settings, 1)
    assert (old.exists(), foreign.exists(), fresh.exists()) == (False, True, True)


def test_patches_do_not_go_among_the_originals(tmp_path):
    originals = tiles(tmp_path / "images")
    with pytest.raises(DataError, match="the originals lie here"):
        split_all(originals, tiling(tmp_path), 1)


def test_a_folder_that_cannot_be_made(tmp_path):
    originals = tiles(tmp_path / "in")
    settings = tiling(tmp_path / "out")
    (tmp_path / "out/images").rmdir()
    (tmp_path / "out/images").write_bytes(b"a file")
    with pytest.raises(DataError, match=r"images: this folder cannot be made"):
        split_all(originals, settings, 1)


PEAK = """
import json, sys
from pathlib import Path
from d2ls.data.spec import DatasetSpec
from d2ls.data.sets.layout import OriginalTile, Tiling
from d2ls.preparation.tiling import split

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024

folder = Path(sys.argv[1])
images, masks = folder / "images", folder / "masks"
images.mkdir(), masks.mkdir()
spec = DatasetSpec.from_dict(json.loads(sys.argv[2]))
tiling = Tiling(spec=spec, images=images, masks=masks, size=(1024, 1024), stride=(1024, 1024), variants=3)
start = status("VmRSS")
split(OriginalTile("tile", folder / "image.tif", folder / "mask.tif"), tiling)
print(status("VmHWM") - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
def test_memory_stays_under_three_times_image_and_mask(tmp_path):
    height, width = 3600, 3000
    image, mask = oracle.draw(np.random.default_rng(0), (height // 4, width // 4))
    for name, pixels in (("image", image), ("mask", mask)):
        oracle.save(tmp_path / f"{name}.tif", pixels.repeat(4, 0).repeat(4, 1), compression="tiff_lzw")
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), json.dumps(vaihingen.SPEC.to_dict())],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    decoded = height * width * 3 + height * width  # RGB and class indices: the strictest reading
    assert int(run.stdout) < 3 * decoded
    assert files.read_size(tmp_path / "masks/tile_0_0.png") == (1024, 1024)

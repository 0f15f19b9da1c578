import json

import numpy as np
import pytest
from PIL import Image

from d2ls.data.sets import cloud, dubai
from tests.preparation import oracle


def write_cloud(root, train=4, val=2, size=40, seed=0):
    rng = np.random.default_rng(seed)
    for split, number in (("train", train), ("val", val)):
        for at in range(number):
            image = rng.integers(256, size=(size, size, 3), dtype=np.uint8)
            mask = rng.integers(4, size=(size, size), dtype=np.uint8)
            oracle.save(root / f"cloud/img_dir/{split}/{split}{at}.png", image)
            oracle.save(root / f"cloud/ann_dir/{split}/{split}{at}.png", mask)
    return root / "cloud/img_dir", root / "cloud/ann_dir"


@pytest.fixture
def report(call_tool, tmp_path):
    """Check tmp_path: the exit code and {kind: {file: detail}}."""

    def check(name="cloud"):
        code, out, error = call_tool("check_data.py", name, "--root", tmp_path, "--json")
        assert not error
        found = json.loads(out)
        kinds = {}
        for problem in found["problems"]:
            path = problem["path"].removeprefix(f"{tmp_path}/{name}/")
            kinds.setdefault(problem["kind"], {})[path] = problem["detail"]
        assert found["ok"] == (code == 0) == (not kinds)
        return code, kinds, found

    return check


def test_a_clean_set(report, tmp_path):
    _, masks = write_cloud(tmp_path)
    code, kinds, found = report()
    assert (code, kinds) == (0, {})
    assert [(split["split"], split["images"], split["masks"]) for split in found["splits"]] == [
        ("train", 4, 4), ("val", 2, 2),
    ]  # fmt: skip
    counts = np.bincount(np.concatenate([oracle.read(p).ravel() for p in (masks / "train").iterdir()]), minlength=4)
    assert list(found["splits"][0]["shares"].values()) == pytest.approx(counts / counts.sum())
    assert list(found["splits"][0]["shares"]) == list(cloud.SPEC.classes)


def test_lost_partners(report, tmp_path):
    images, masks = write_cloud(tmp_path)
    (images / "train/train0.png").unlink()
    (masks / "val/val1.png").unlink()
    code, kinds, _ = report()
    assert code == 1
    assert kinds.keys() == {"no mask", "no image"}
    assert kinds["no mask"].keys() == {"img_dir/val/val1.png"}
    assert kinds["no image"].keys() == {"ann_dir/train/train0.png"}


def test_sizes(report, tmp_path):
    images, _ = write_cloud(tmp_path)
    oracle.save(images / "train/train1.png", np.random.default_rng(9).integers(256, size=(41, 40, 3), dtype=np.uint8))
    assert report()[1] == {"size": {"ann_dir/train/train1.png": "40 x 40 pixels, its image has 40 x 41"}}


def test_damaged_files(report, tmp_path):
    images, masks = write_cloud(tmp_path)
    for path in (images / "train/train1.png", masks / "val/val0.png"):
        path.write_bytes(path.read_bytes()[:-40])
    (images / "train/train2.png").write_bytes(b"")
    (masks / "train/train3.png").write_bytes(b"no image at all")
    code, kinds, _ = report()
    assert code == 1
    assert kinds.keys() == {"unreadable"}
    assert kinds["unreadable"].keys() == {
        "img_dir/train/train1.png", "ann_dir/val/val0.png", "img_dir/train/train2.png", "ann_dir/train/train3.png",
    }  # fmt: skip


def test_labels_outside_the_classes(report, tmp_path):
    _, masks = write_cloud(tmp_path)
    mask = oracle.read(masks / "train/train0.png")
    mask[0, :3] = 4
    oracle.save(masks / "train/train0.png", mask)
    assert "4 (3 pixels)" in report()[1]["labels"]["ann_dir/train/train0.png"]


def test_unknown_colours(report, tmp_path):
    rng = np.random.default_rng(0)
    palette = np.array(dubai.SPEC.colours, np.uint8)
    mask = palette[rng.integers(6, size=(30, 30))]
    mask[0, :2] = (9, 9, 9)
    oracle.save(tmp_path / "dubai/images/train/a.jpg", rng.integers(256, size=(30, 30, 3), dtype=np.uint8))
    oracle.save(tmp_path / "dubai/masks/train/a.png", mask)
    assert "(9, 9, 9) (2 pixels)" in report("dubai")[1]["colours"]["masks/train/a.png"]


@pytest.mark.parametrize("opaque", [True, False])
def test_alpha_channels(report, tmp_path, opaque):
    images, _ = write_cloud(tmp_path)
    rgba = np.random.default_rng(9).integers(255, size=(40, 40, 4), dtype=np.uint8)
    rgba[..., 3] = 255 if opaque else rgba[..., 3]
    Image.fromarray(rgba).save(images / "train/train1.png")
    assert report()[1].keys() == {"alpha"}


def test_sixteen_bits(report, tmp_path):
    images, masks = write_cloud(tmp_path)
    deep = np.arange(1600, dtype=np.uint16).reshape(40, 40)
    Image.fromarray(deep).save(images / "train/train1.png")
    Image.fromarray(deep).save(masks / "train/train2.png")
    kinds = report()[1]
    assert kinds.keys() == {"16 bit"}
    assert kinds["16 bit"].keys() == {"img_dir/train/train1.png", "ann_dir/train/train2.png"}


def test_empty_masks(report, tmp_path):
    _, masks = write_cloud(tmp_path)
    oracle.save(masks / "train/train1.png", np.full((40, 40), 255, np.uint8))
    assert report()[1] == {"empty mask": {"ann_dir/train/train1.png": "every pixel is ignored"}}


def test_the_same_picture_in_two_splits_whatever_its_file(report, tmp_path):
    images, _ = write_cloud(tmp_path)
    same = Image.open(images / "train/train1.png")
    (images / "val/val0.png").unlink()
    same.save(images / "val/val0.tif", compression="tiff_lzw")
    same.save(images / "train/train2.png")  # within a split it is no leak
    code, kinds, _ = report()
    assert code == 1
    assert kinds.keys() == {"duplicate"}
    assert "val/val0.tif" in str(kinds)


def test_two_files_of_one_name(report, tmp_path):
    images, _ = write_cloud(tmp_path)
    Image.open(images / "train/train1.png").save(images / "train/train1.tif")
    assert report()[1] == {"name": {"img_dir/train/train1.tif": "shares its name with train1.png"}}


def test_an_empty_folder_and_a_missing_one(report, tmp_path):
    images, masks = write_cloud(tmp_path)
    (images / "test").mkdir()
    for path in [*(masks / "val").iterdir()]:
        path.unlink()
    (masks / "val").rmdir()
    assert set(report()[1]["folder"]) == {"img_dir/test", "ann_dir/val", "ann_dir/test"}


def test_nothing_there(call_tool, tmp_path):
    code, out, error = call_tool("check_data.py", "cloud", "--root", tmp_path)
    assert (code, out) == (2, "")
    assert "no folders of cloud" in error
    assert call_tool("check_data.py", "mars", "--root", tmp_path)[0] == 2


def test_processes_do_not_change_the_report(call_tool, tmp_path):
    images, _ = write_cloud(tmp_path, train=20)
    Image.open(images / "train/train1.png").save(images / "val/val1.png")
    found = []
    for workers in (1, 3):
        _, out, _ = call_tool("check_data.py", "cloud", "--root", tmp_path, "--json", "--workers", workers)
        found.append({key: value for key, value in json.loads(out).items() if key != "seconds"})
    assert found[0] == found[1]


def test_the_table_and_the_list(call_tool, tmp_path):
    _, masks = write_cloud(tmp_path, train=9)
    for number in range(7):
        (masks / f"train/train{number}.png").unlink()
    code, out, _ = call_tool("check_data.py", "cloud", "--root", tmp_path)
    assert code == 1
    assert "7 images without a mask" in out
    assert "and 2 more" in out
    assert "Cloud Shadow" in out.replace("\n", " ") or "Shadow" in out


@pytest.mark.parametrize("name", ["vaihingen", "potsdam", "loveda", "dubai", "cloud"])
def test_real_samples(call_tool, shared_data, tmp_path, name):
    code, out, error = call_tool(
        "check_data.py", name, "--root", shared_data, "--json", "--picture", tmp_path / "new" / "sheet.png"
    )  # fmt: skip
    assert not error
    kinds = {problem["kind"] for problem in json.loads(out)["problems"]}
    assert kinds == (set() if name in ("dubai", "cloud") else {"duplicate"}), "some samples serve as train and test"
    assert code == bool(kinds)
    sheet = oracle.read(tmp_path / "new" / "sheet.png")
    assert sheet.shape[2] == 3


def test_the_picture_shows_labels_in_their_colours(call_tool, tmp_path):
    half = np.zeros((60, 60, 3), np.uint8)
    mask = np.zeros((60, 60), np.uint8)
    mask[:, 30:] = 3
    oracle.save(tmp_path / "cloud/img_dir/train/a.png", half)
    oracle.save(tmp_path / "cloud/ann_dir/train/a.png", mask)
    assert call_tool("check_data.py", "cloud", "--root", tmp_path, "--picture", tmp_path / "sheet.png")[0] == 0
    sheet = oracle.read(tmp_path / "sheet.png").reshape(-1, 3).astype(int)
    for label in (0, 3):
        blend = np.array(cloud.SPEC.colours[label]) / 2
        assert (np.abs(sheet - blend).max(axis=1) <= 1).sum() == pytest.approx(300 * 150, rel=0.05)
        assert (sheet == cloud.SPEC.colours[label]).all(axis=1).sum() > 100, "the legend"
    assert (sheet == 0).all(axis=1).sum() >= 300 * 300, "the image itself"


@pytest.mark.parametrize("kind", ["RGB", "IRRG"])
def test_originals_of_potsdam(report, tmp_path, kind):
    home = tmp_path / "potsdam"
    for split, tile in (("train", "6_7"), ("train", "4_12"), ("test", "2_13")):
        image, mask = oracle.draw(np.random.default_rng(len(tile)), (40, 40), cars=0.2)
        image[0, 0] = len(tile), ord(split[1]), 0
        cars = (mask == (255, 255, 0)).all(axis=2)
        eroded = np.where(np.arange(40)[:, None] % 16 == 0, 0, mask).astype(np.uint8)
        if split == "train":
            mask[cars] = (252, 255, 0)
        oracle.save(home / f"{split}_images/top_potsdam_{tile}_{kind}.tif", image)
        oracle.save(home / f"{split}_masks/top_potsdam_{tile}_label.tif", mask)
        if split == "test":
            oracle.save(home / f"test_masks_eroded/top_potsdam_{tile}_label_noBoundary.tif", eroded)
    assert report("potsdam")[1] == {}
    oracle.save(home / "test_masks/top_potsdam_2_13_label.tif", np.full((40, 40, 3), (252, 255, 0), np.uint8))
    assert "(252, 255, 0) (1600 pixels)" in report("potsdam")[1]["colours"]["test_masks/top_potsdam_2_13_label.tif"]


def test_unions_of_train_and_val_are_no_leak(call_tool, report, tmp_path):
    rng = np.random.default_rng(0)
    for number, split in enumerate(("Train", "Val")):
        raw, image = rng.integers(8, size=(20, 20), dtype=np.uint8), rng.integers(256, size=(20, 20, 3), dtype=np.uint8)
        for folder in (split, "train_val"):
            oracle.save(tmp_path / f"LoveDA/{folder}/Urban/images_png/{number}.png", image)
            oracle.save(tmp_path / f"LoveDA/{folder}/Urban/masks_png/{number}.png", raw)
    code, kinds, found = report("loveda")
    assert (code, kinds) == (0, {})
    assert [split["images"] for split in found["splits"]] == [1, 1, 2]


def test_frames_of_uavid(report, tmp_path):
    for split, sequence in (("uavid_train", "seq1"), ("uavid_val", "seq16"), ("uavid_test", "seq21")):
        image, mask = oracle.draw(np.random.default_rng(int(sequence[3:])), (40, 50), oracle.UAVID)
        oracle.save(tmp_path / f"uavid/{split}/{sequence}/Images/000000.png", image)
        if split != "uavid_test":
            oracle.save(tmp_path / f"uavid/{split}/{sequence}/Labels/000000.png", mask)
    code, kinds, found = report("uavid")
    assert (code, kinds) == (0, {})
    assert len(found["splits"]) == 3

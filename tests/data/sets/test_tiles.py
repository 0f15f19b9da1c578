import pytest

from d2ls.data.sets import potsdam, uavid, vaihingen
from d2ls.data.sets.isprs import tiles
from d2ls.errors import DataError


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_vaihingen_has_one_name_for_both_or_an_eroded_one(tmp_path):
    images = touch(tmp_path / "i", "top_mosaic_09cm_area1.tif", "top_mosaic_09cm_area1.tfw", ".hidden.tif")
    masks = touch(tmp_path / "m", "top_mosaic_09cm_area1.tif", "top_mosaic_09cm_area1_noBoundary.tif")
    for eroded, name in ((False, "top_mosaic_09cm_area1.tif"), (True, "top_mosaic_09cm_area1_noBoundary.tif")):
        (original,) = tiles(images, masks, vaihingen.naming(eroded=eroded))
        assert (original.stem, original.image.name, original.mask.name) == (
            "top_mosaic_09cm_area1", "top_mosaic_09cm_area1.tif", name,
        )  # fmt: skip


@pytest.mark.parametrize("rgb", [True, False])
@pytest.mark.parametrize("eroded", [True, False])
def test_potsdam_names(tmp_path, rgb, eroded):
    images = touch(
        tmp_path / "i", "top_potsdam_2_10_RGB.tif", "top_potsdam_2_10_IRRG.tif", "top_potsdam_2_10_RGBIR.tif"
    )
    masks = touch(tmp_path / "m", "top_potsdam_2_10_label.tif", "top_potsdam_2_10_label_noBoundary.tif")
    (original,) = tiles(images, masks, potsdam.naming(rgb=rgb, eroded=eroded))
    assert original.stem == "top_potsdam_2_10"
    assert original.image.name == f"top_potsdam_2_10_{'RGB' if rgb else 'IRRG'}.tif"
    assert original.mask.name == f"top_potsdam_2_10_label{'_noBoundary' if eroded else ''}.tif"


def test_missing_partners_are_named(tmp_path):
    images, masks = touch(tmp_path / "i", "a.tif", "b.tif"), touch(tmp_path / "m", "b.tif", "c.tif")
    with pytest.raises(DataError, match=r"i: no mask for 1 of 2 images \(first: a.tif; expected a.tif in .*m\)"):
        tiles(images, masks, vaihingen.naming(eroded=False))
    (images / "a.tif").unlink()
    with pytest.raises(DataError, match=r"m: no image for 1 of 2 masks \(first: c.tif"):
        tiles(images, masks, vaihingen.naming(eroded=False))


def test_wrong_and_empty_folders(tmp_path):
    empty, other = touch(tmp_path / "empty"), touch(tmp_path / "i", "top_potsdam_2_10_IRRG.tif")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        tiles(tmp_path / "nowhere", empty, vaihingen.naming(eroded=False))
    with pytest.raises(DataError, match=r"empty: no images.*no images there at all"):
        tiles(empty, empty, vaihingen.naming(eroded=False))
    with pytest.raises(DataError, match=r"names end in _RGB; 1 other images there, first: top_potsdam_2_10_IRRG.tif"):
        tiles(other, empty, potsdam.naming(rgb=True, eroded=False))
    only_eroded = touch(tmp_path / "m", "a_noBoundary.tif")
    with pytest.raises(DataError, match=r"do not end in _noBoundary; 1 other.*--eroded"):
        tiles(other, only_eroded, vaihingen.naming(eroded=False))


def test_frames(tmp_path):
    touch(tmp_path / "seq2" / "Images", "000100.png", "000000.png")
    touch(tmp_path / "seq2" / "Labels", "000000.png", "000100.png")
    touch(tmp_path / "seq10" / "Images", "000000.png")
    touch(tmp_path / "seq10" / "Labels", "000000.png")
    assert [original.stem for original in uavid.tiles(tmp_path)] == ["seq10_000000", "seq2_000000", "seq2_000100"]
    (tmp_path / "seq10" / "Labels" / "000000.png").rename(tmp_path / "seq10" / "Labels" / "000001.png")
    with pytest.raises(DataError, match=r"seq10.*no mask for 1 of 1 images"):
        uavid.tiles(tmp_path)


def test_frames_without_labels_or_sequences(tmp_path):
    with pytest.raises(DataError, match=r"no folders seqN/Images"):
        uavid.tiles(tmp_path)
    touch(tmp_path / "seq2" / "Images", "000000.png")
    with pytest.raises(DataError, match=r"seq2.Labels: no such folder.*test frames have none"):
        uavid.tiles(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        uavid.tiles(tmp_path / "nowhere")

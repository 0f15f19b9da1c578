"""Fake official archives with drawn content."""

import io
import zipfile

import numpy as np
from PIL import Image

from d2ls.data.sets import potsdam, vaihingen
from tests.preparation import oracle


def encode(pixels, kind="TIFF", **options):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def tile(number, shape=(70, 90), cars=0.05):
    """Image, mask and eroded mask, each encoded."""
    image, mask = oracle.draw(np.random.default_rng(number), shape, cars=cars)
    eroded = mask.copy()
    eroded[::16] = eroded[:, ::16] = 0
    return encode(image, compression="tiff_lzw"), encode(mask), encode(eroded)


def vaihingen_members(draw=tile):
    """The members of the three archives."""
    data, complete, eroded = {"readme.txt": b"ISPRS"}, {}, {}
    for name in sorted((*vaihingen.TRAIN_TILES, *vaihingen.TEST_TILES), key=int):
        image, mask, boundary = draw(int(name))
        data[f"top/top_mosaic_09cm_area{name}.tif"] = image
        data[f"dsm/dsm_09cm_matching_area{name}.tif"] = b"heights"
        if name in vaihingen.TRAIN_TILES:
            data[f"gts_for_participants/top_mosaic_09cm_area{name}.tif"] = mask
        complete[f"top_mosaic_09cm_area{name}.tif"] = mask
        eroded[f"top_mosaic_09cm_area{name}_noBoundary.tif"] = boundary
    return data, complete, eroded


def write_vaihingen(folder, draw=tile):
    """The three archives under names that tell nothing."""
    for number, members in enumerate(vaihingen_members(draw)):
        write_zip(folder / f"download({number}).zip", members)


def write_potsdam(folder, outer=zipfile.ZIP_STORED, inner=zipfile.ZIP_DEFLATED):
    """Zips inside one zip, as the server packs them."""
    images, labels, eroded = {}, {}, {}
    for number, name in enumerate((*potsdam.TRAIN_TILES, *potsdam.TEST_TILES, potsdam.LEFT_OUT_TILE)):
        image, mask, boundary = tile(number)
        images[f"2_Ortho_RGB/top_potsdam_{name}_RGB.tif"] = image
        images[f"2_Ortho_RGB/top_potsdam_{name}_RGB.tfw"] = b"0.05"
        labels[f"top_potsdam_{name}_label.tif"] = mask
        eroded[f"top_potsdam_{name}_label_noBoundary.tif"] = boundary
    names = ("2_Ortho_RGB", "5_Labels_all", "5_Labels_for_all_no_Boundary")
    members = {f"Potsdam/{name}.zip": zipped(m, inner) for name, m in zip(names, (images, labels, eroded), strict=True)}
    write_zip(folder / "Potsdam.zip", members, outer)

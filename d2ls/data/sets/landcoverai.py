"""LandCover.ai: its classes, for masks of frames (see test_uavid.py); its images are not read here."""

from d2ls.data.spec import DatasetSpec

SPEC = DatasetSpec(
    name="landcoverai",
    classes=("other", "building", "woodland", "water"),
    colours=((233, 193, 133), (255, 0, 0), (0, 255, 0), (255, 255, 255)),
    ignore_index=255,
    ignore_colours=((0, 0, 0),),
    citation="Boguszewski et al., LandCover.ai: Dataset for Automatic Mapping of Buildings, Woodlands, Water and Roads "
    "from Aerial Imagery, 2021.",
)

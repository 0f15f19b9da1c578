"""Cloud (Landsat-8 biomes) in the paper's setting; both protocols are the same here."""

from d2ls.data.sets import cloud as data

base = "../paper.py"

max_epoch = 100

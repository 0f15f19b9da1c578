"""UAVid in the paper's setting."""

from d2ls.data.sets import uavid as data

base = "../paper.py"

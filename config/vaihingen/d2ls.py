"""ISPRS Vaihingen in the paper's setting."""

from d2ls.data.sets import vaihingen as data

base = "../paper.py"

monitor = "val_F1"

crop = 512
train_dataset = data.train(protocol, crop=crop)

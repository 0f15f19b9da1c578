"""ISPRS Potsdam in the paper's setting."""

from d2ls.data.sets import potsdam as data

base = "../paper.py"

monitor = "val_F1"

crop = 768
train_dataset = data.train(protocol, crop=crop)

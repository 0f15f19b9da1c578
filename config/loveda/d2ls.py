"""LoveDA in the paper's setting."""

from d2ls.data.sets import loveda as data

base = "../paper.py"

max_epoch = 30
train_batch_size = val_batch_size = 8
lr = 8e-5

crop = 512
train_dataset = data.train(protocol, crop=crop)

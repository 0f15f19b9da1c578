"""Dubai aerial photographs on a 2-core CPU; both protocols are the same here."""

from d2ls.data.sets import dubai as data

base = "../small.py"

max_epoch = 110
val_batch_size = 1
check_val_every_n_epoch = 22

crop, scales = 320, (0.5, 0.75, 1.0)
train_dataset = data.train(protocol, crop=crop, scales=scales)

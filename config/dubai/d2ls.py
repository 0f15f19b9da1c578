"""Dubai aerial photographs on a 2-core CPU; both protocols are the same here."""

from d2ls.data.sets import dubai as data

base = "../small.py"

max_epoch = 110
val_batch_size = 1
check_val_every_n_epoch = 22

lookahead_alpha = 1.0  # AdamW alone: better in short trainings, no gain over 110 epochs (docs/benchmarks.md)
crop, scales = 320, (0.5, 0.75, 1.0)
test_window = crop  # the dictionary is made of what a window shows: as much as in training
train_dataset = data.train(protocol, crop=crop, scales=scales)

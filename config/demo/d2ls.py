"""The demo: drawn aerial scenes, on a 2-core CPU, without any download."""

from d2ls.synthetic import demo as data

base = "../small.py"

max_epoch = 4
train_batch_size = 8
lr = 2e-3

weights_path = f"model_weights/demo/{weights_name}"
log_name = f"demo/{weights_name}"
monitor = "val_F1"
check_val_every_n_epoch = 2

crop = 192
train_dataset = data.train(protocol, crop=crop)

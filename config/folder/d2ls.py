"""Your own folder of images and masks, without code: python train.py -c config/folder/d2ls.py data=my_photographs.

The folder needs a table classes.csv: python tools/describe_data.py my_photographs --write makes one.
"""

from pathlib import Path

from d2ls.data.sets.folder import FolderDataset

base = "../small.py"

data = "data/folder"  # images and masks; see docs/your_data.md for the layouts
folder = FolderDataset(data)
classes = folder.spec.classes
num_classes = folder.spec.num_classes
ignore_index = folder.spec.ignore_index

max_epoch = 60
val_batch_size = 1
num_workers = 2
check_val_every_n_epoch = 5
weights_path = f"model_weights/{Path(data).name}/{weights_name}"
log_name = f"{Path(data).name}/{weights_name}"

crop, scales = 256, (0.75, 1.0, 1.25)
train_dataset = folder.train(crop=crop, scales=scales, smart_crop=0.9, rot90=0.5, flip=0.5)
val_dataset = folder.val()
test_dataset = folder.test()

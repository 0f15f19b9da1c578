"""Your own folder of images and masks, without code: python train.py -c config/folder/d2ls.py data=my_photographs.

The folder needs a table classes.csv: python tools/describe_data.py my_photographs --write makes one.
"""

from pathlib import Path

from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.data.sets.folder import FolderDataset
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning, efficientnet_lite0_weights
from d2ls.optim import adamw_lookahead, cosine

data = "data/folder"  # images and masks; see docs/your_data.md for the layouts

max_epoch = 60
train_batch_size, val_batch_size = 4, 1
lr, weight_decay = 1e-3, 0.01
backbone_lr, backbone_weight_decay = None, None
seed = 42
num_workers = 2

folder = FolderDataset(data)
classes = folder.spec.classes
num_classes = folder.spec.num_classes
ignore_index = folder.spec.ignore_index

weights_name = "d2ls"
weights_path = f"model_weights/{Path(data).name}/{weights_name}"
test_weights_name = weights_name
log_name = f"{Path(data).name}/{weights_name}"
monitor, monitor_mode = "val_mIoU", "max"
save_top_k, save_last = 1, True
check_val_every_n_epoch = 5
channels_last = True

backbone, pretrained = "tf_efficientnet_lite0", efficientnet_lite0_weights()
stages, width, dictionary, head = 3, 128, "dynamic", "dictionary"
net = DynamicDictionaryLearning(
    backbone, num_classes, stages=stages, width=width, pretrained=pretrained, dictionary=dictionary, head=head
)

use_aux_loss, contrastive_weight = True, 1.0
loss = D2LSLoss(ignore_index, auxiliary_weight=0.4 * use_aux_loss, contrastive_weight=contrastive_weight)

crop, scales = 256, (0.75, 1.0, 1.25)
train_dataset = folder.train(crop=crop, scales=scales, smart_crop=0.9, rot90=0.5, flip=0.5)
val_dataset, test_dataset = folder.val(), folder.test()
train_loader = training_loader(train_dataset, train_batch_size, seed=seed, num_workers=num_workers)
val_loader = evaluation_loader(val_dataset, val_batch_size, num_workers=num_workers)

optimizer = adamw_lookahead(net, lr, weight_decay, backbone_lr, backbone_weight_decay)
lr_scheduler = cosine(optimizer, max_epoch)

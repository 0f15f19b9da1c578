"""Base of the configs for a 2-core CPU: EfficientNet-Lite0, ImageNet weights from an installed package.

`data` is the module of their data set.
"""

from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning, efficientnet_lite0_weights
from d2ls.optim import adamw_lookahead, cosine

max_epoch = 45
train_batch_size, val_batch_size = 4, 4
lr, weight_decay = 1e-3, 0.01
backbone_lr, backbone_weight_decay = None, None  # None: the backbone learns as fast as the rest
seed = 42
protocol = "strict"  # "published": the test images choose the checkpoint
num_workers = 1

classes = data.SPEC.classes
num_classes = data.SPEC.num_classes
ignore_index = data.SPEC.ignore_index

weights_name = "d2ls"
weights_path = f"model_weights/{data.SPEC.name}/{weights_name}"
test_weights_name = weights_name  # the best; "last" for the last
log_name = f"{data.SPEC.name}/{weights_name}"
monitor, monitor_mode = "val_mIoU", "max"
save_top_k, save_last = 1, True
check_val_every_n_epoch = 1
channels_last = True

backbone, pretrained = "tf_efficientnet_lite0", efficientnet_lite0_weights()
stages, width, dictionary, head = 3, 128, "dynamic", "dictionary"
net = DynamicDictionaryLearning(
    backbone, num_classes, stages=stages, width=width, pretrained=pretrained, dictionary=dictionary, head=head
)

use_aux_loss, contrastive_weight = True, 1.0
loss = D2LSLoss(ignore_index, auxiliary_weight=0.4 * use_aux_loss, contrastive_weight=contrastive_weight)

train_dataset, val_dataset, test_dataset = data.train(protocol), data.val(protocol), data.test()
train_loader = training_loader(train_dataset, train_batch_size, seed=seed, num_workers=num_workers)
val_loader = evaluation_loader(val_dataset, val_batch_size, num_workers=num_workers)

optimizer = adamw_lookahead(net, lr, weight_decay, backbone_lr, backbone_weight_decay)
lr_scheduler = cosine(optimizer, max_epoch)

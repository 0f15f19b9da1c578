"""Dubai aerial photographs on a 2-core CPU: EfficientNet-Lite0, ImageNet weights from an installed package."""

from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.data.sets import dubai
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning, efficientnet_lite0_weights
from d2ls.optim import adamw_lookahead, cosine

max_epoch = 110
train_batch_size, val_batch_size = 4, 1
lr, weight_decay = 1e-3, 0.01
backbone_lr, backbone_weight_decay = None, None
seed = 42
protocol = "strict"
num_workers = 1

classes = dubai.SPEC.classes
num_classes = dubai.SPEC.num_classes
ignore_index = dubai.SPEC.ignore_index

weights_name = "d2ls"
weights_path = f"model_weights/dubai/{weights_name}"
test_weights_name = weights_name
log_name = f"dubai/{weights_name}"
monitor, monitor_mode = "val_mIoU", "max"
save_top_k, save_last = 1, True
check_val_every_n_epoch = 22
channels_last = True

backbone, pretrained = "tf_efficientnet_lite0", efficientnet_lite0_weights()
stages, width, dictionary = 3, 128, "dynamic"
net = DynamicDictionaryLearning(
    backbone, num_classes, stages=stages, width=width, pretrained=pretrained, dictionary=dictionary
)

use_aux_loss, contrastive_weight = True, 1.0
loss = D2LSLoss(ignore_index, auxiliary_weight=0.4 * use_aux_loss, contrastive_weight=contrastive_weight)

crop, scales = 320, (0.5, 0.75, 1.0)
train_dataset = dubai.train(protocol, crop=crop, scales=scales)
val_dataset, test_dataset = dubai.val(protocol), dubai.test()
train_loader = training_loader(train_dataset, train_batch_size, seed=seed, num_workers=num_workers)
val_loader = evaluation_loader(val_dataset, val_batch_size, num_workers=num_workers)

optimizer = adamw_lookahead(net, lr, weight_decay, backbone_lr, backbone_weight_decay)
lr_scheduler = cosine(optimizer, max_epoch)

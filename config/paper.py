"""Base of the configs in the paper's setting: ConvNeXt-B, three stages. `data` is the module of their data set."""

from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead, cosine

max_epoch = 45
train_batch_size, val_batch_size = 4, 4
lr, weight_decay = 1e-4, 0.01
backbone_lr, backbone_weight_decay = None, None  # None: the backbone learns as fast as the rest
dictionary_lr = None  # None: so does the dictionary
lookahead_alpha = 0.5  # share of the way that the slow weights go; 1: AdamW alone
seed = 42
protocol = "strict"  # "published": the reference's splits, which select on test or training data
num_workers = 2

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

backbone, pretrained, stages = "convnext_base", "torchvision", 3
dictionary = "dynamic"  # or an ablation: "static", "ones", "zeros"
num_entries = None  # of the dictionary; None: one for each class
head = "dictionary"  # or "conv": no dictionary at all
net = DynamicDictionaryLearning(
    backbone, num_classes, stages=stages, pretrained=pretrained, dictionary=dictionary, num_entries=num_entries,
    head=head,
)  # fmt: skip

use_aux_loss, auxiliary_weight, contrastive_weight, extra_losses = True, 0.4, 1.0, {}
loss = D2LSLoss(ignore_index, auxiliary_weight * use_aux_loss, contrastive_weight, extra_losses=extra_losses)

train_dataset, val_dataset, test_dataset = data.train(protocol), data.val(protocol), data.test()
train_loader = training_loader(train_dataset, train_batch_size, seed=seed, num_workers=num_workers)
val_loader = evaluation_loader(val_dataset, val_batch_size, num_workers=num_workers)

optimizer = adamw_lookahead(
    net, lr, weight_decay, backbone_lr, backbone_weight_decay, dictionary_lr=dictionary_lr, alpha=lookahead_alpha
)
lr_scheduler = cosine(optimizer, max_epoch)

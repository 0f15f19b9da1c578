"""A config that trains in a second, and small changes of it."""

from pathlib import Path

CONFIG = '''"""Six drawn scenes, two epochs of three steps."""

from d2ls.data.sets import vaihingen
from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead, cosine

max_epoch = 2
train_batch_size = val_batch_size = 2
lr, weight_decay = 1e-3, 0.01
backbone_lr, backbone_weight_decay = None, None
seed = 42
protocol: str = "strict"
num_workers = 0

classes = vaihingen.SPEC.classes
num_classes = vaihingen.SPEC.num_classes
ignore_index = vaihingen.SPEC.ignore_index

weights_name = "tiny"
weights_path = f"model_weights/vaihingen/{weights_name}"
test_weights_name = weights_name
log_name = f"vaihingen/{weights_name}"
monitor, monitor_mode = "val_F1", "max"
accelerator = "cpu"

backbone, pretrained, stages = "test_convnext", False, 1
width, drop_path_rate, dictionary = 32, 0.0, "dynamic"
net = DynamicDictionaryLearning(
    backbone, num_classes, stages=stages, width=width, pretrained=pretrained, dictionary=dictionary,
    drop_path_rate=drop_path_rate,
)

use_aux_loss, contrastive_weight = True, 1.0
loss = D2LSLoss(ignore_index, auxiliary_weight=0.4 * use_aux_loss, contrastive_weight=contrastive_weight)

crop = 32
train_dataset, val_dataset = vaihingen.train(protocol, crop=crop), vaihingen.val(protocol)
test_dataset = vaihingen.test()
train_loader = training_loader(train_dataset, train_batch_size, seed=seed, num_workers=num_workers)
val_loader = evaluation_loader(val_dataset, val_batch_size, num_workers=num_workers)

optimizer = adamw_lookahead(net, lr, weight_decay, backbone_lr, backbone_weight_decay)
lr_scheduler = cosine(optimizer, max_epoch)
'''


def write_config(folder: Path, *changes: tuple[str, str], name: str = "tiny.py", after: str = "") -> Path:
    """The config with pieces of its text replaced, and text behind it."""
    text = CONFIG
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text + after, encoding="utf-8")
    return path

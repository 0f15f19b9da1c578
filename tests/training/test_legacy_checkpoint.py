"""A checkpoint written by the code of commit 769b950, inside the second epoch of three, still works everywhere."""

import lzma
from pathlib import Path

import pytest
import torch

import test_vaihingen
from d2ls.checkpoint import load_weights, read_checkpoint
from d2ls.cli.common import run_main
from d2ls.config import load_config
from d2ls.data.sets import vaihingen
from d2ls.training.trainer import train
from tests.tiny import write_config
from tests.training.test_trainer import saved

# Backbone frozen, its weights coarse: a small file. The rest, and the optimiser's state, are as training left them.
NET = """
import torch

net = DynamicDictionaryLearning(
    "test_efficientnet", num_classes, stages=1, width=16, dictionary="dynamic", drop_path_rate=0.0, freeze_backbone=True
)
optimizer = adamw_lookahead(net, lr, weight_decay, backbone_lr, backbone_weight_decay)
lr_scheduler = cosine(optimizer, max_epoch)
"""
MEANS = (-0.0647825226, -0.0623088032, -0.0702474192, -0.0762025565, -0.0787047595, -0.0659481883)  # of its logits


@pytest.fixture
def checkpoint(run_folder: Path) -> Path:
    packed = Path(__file__).with_name("checkpoint_769b950.ckpt.xz")
    path = run_folder / "old.ckpt"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    write_config(run_folder, after=NET)
    return path


def test_it_loads_with_its_config_and_without(checkpoint: Path) -> None:
    found = read_checkpoint(checkpoint)
    assert (found.epochs, found.batches, found.spec) == (1, 2, vaihingen.SPEC)
    configured = load_config("tiny.py").net
    assert load_weights(configured, found) == []
    image = torch.linspace(-2, 2, 3 * 40 * 56).reshape(1, 3, 40, 56).sin()
    for net in (found.build(), configured.eval()):
        with torch.no_grad():
            logits = net(image)
        torch.testing.assert_close(logits.mean((0, 2, 3)), torch.tensor(MEANS), rtol=0, atol=1e-5)


def test_it_resumes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_checkpoint(checkpoint).weights["dictionary.table"]
    train(load_config("tiny.py", {"resume_ckpt_path": "old.ckpt", "max_epoch": 3}))
    assert "going on with epoch 2 of 3, behind its first 2 batches" in capsys.readouterr().out
    content = saved()
    assert (content["epoch"], content["global_step"]) == (2, 9)
    assert content["lr_schedulers"][0]["last_epoch"] == 3
    assert not torch.equal(content["state_dict"]["net.dictionary.table"], before)


def test_it_is_tested(checkpoint: Path) -> None:
    for words in (["-w", "old.ckpt"], ["-w", "old.ckpt", "-c", "tiny.py"]):
        assert run_main(test_vaihingen.main, [*words, "-o", f"out{len(words)}"]) == 0
    masks = [sorted(Path(folder).rglob("*.png")) for folder in ("out2", "out4")]
    assert len(masks[0]) == 2
    assert [path.read_bytes() for path in masks[0]] == [path.read_bytes() for path in masks[1]]

"""Model folders: the same network back, facts kept, disagreements named, and the hub without a network."""

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

import d2ls
from d2ls.checkpoint import KEY, describe, load_weights, read_checkpoint
from d2ls.cli.common import run_main
from d2ls.cli.export import main
from d2ls.cli.predict import main as predict_main
from d2ls.cli.train import main as train_main
from d2ls.config import load_config
from d2ls.data.sets import vaihingen
from d2ls.errors import CheckpointError, ConfigError
from d2ls.export.facts import ModelFacts, read_scores
from d2ls.export.folder import from_pretrained, push_to_hub, write_folder
from tests.test_checkpoint import network, save
from tests.tiny import write_config


def run(*words: object) -> int:
    return run_main(main, [str(word) for word in words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    net = network()
    facts = ModelFacts(arguments=net.arguments, spec=vaihingen.SPEC, window=1024, resolution=0.09, licence="CC-BY-4.0")
    write_folder(net, facts, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def scores_of(path: Path) -> dict[str, Any]:
    return {
        "run": {"command": "test.py", "dataset": "vaihingen", "checkpoint_sha256": read_checkpoint(path).sha256},
        "mIoU": 0.5, "F1": 0.625, "OA": None, "intervals": {"mIoU": [0.4, 0.6], "F1": None, "OA": None},
        "per_class": {c: {"IoU": 0.1, "F1": 0.2, "precision": None, "recall": 1.0} for c in vaihingen.SPEC.classes},
        "images": [{"name": "a"}, {"name": "b"}], "confusion": [],
    }  # fmt: skip


def test_the_same_network_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, image = network().eval(), torch.randn(1, 3, 40, 50)
    path = save(tmp_path / "last.ckpt", net, optimizer_states=[{"state": {0: torch.zeros(10**6)}}])
    assert run(path, "-o", tmp_path / "models" / "x", "--window", 64, "--resolution", 0.09, "--licence", "CC0-1.0") == 0
    assert "-w" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "models" / "x").iterdir()} == {
        "model.safetensors", "config.json", "README.md",
    }  # fmt: skip
    checkpoint = read_checkpoint(tmp_path / "models" / "x")
    with torch.no_grad():
        assert torch.equal(checkpoint.build()(image), net(image))
    assert checkpoint.spec == vaihingen.SPEC
    facts = ModelFacts.from_checkpoint(checkpoint)
    assert (facts.window, facts.resolution, facts.licence, facts.scores) == (64, 0.09, "CC0-1.0", None)
    assert (tmp_path / "models" / "x" / "model.safetensors").stat().st_size < 4.2 * sum(
        parameter.numel() for parameter in net.state_dict().values()
    )


def test_the_size_of_the_training_samples_goes_along(tmp_path: Path) -> None:
    net = network()
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    for name, size in (("known", 96), ("unknown", None)):
        path = tmp_path / f"{name}.ckpt"
        torch.save({"state_dict": state, KEY: describe(net, vaihingen.SPEC, size)}, path)
        assert run(path, "-o", tmp_path / name) == 0
        assert run(tmp_path / name, "-o", tmp_path / "again") == 0
        found = [
            read_checkpoint(tmp_path / place).train_size for place in (path, name, "again", f"{name}/model.safetensors")
        ]
        assert found == [size] * 4
        shown = f"samples of {size} x {size} px" in (tmp_path / name / "README.md").read_text()
        assert shown == (size is not None)
    change(tmp_path / "known", train_size="large")
    with pytest.raises(CheckpointError, match=r"config\.json: train_size is 'large'"):
        read_checkpoint(tmp_path / "known")


def test_half_the_size_and_nearly_the_same_logits(tmp_path: Path, folder: Path) -> None:
    net = read_checkpoint(folder).build()
    write_folder(net, ModelFacts.from_checkpoint(read_checkpoint(folder)), tmp_path / "half", half=True)
    sizes = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    half, image = read_checkpoint(tmp_path / "half").build(), torch.randn(1, 3, 64, 64)
    assert next(half.parameters()).dtype == torch.float32
    with torch.no_grad():
        assert (half(image).softmax(1) - net(image).softmax(1)).abs().max() < 0.01
    net.dictionary.table.data[0, 0] = 1e6
    with pytest.raises(ConfigError, match=r"dictionary\.table reaches 1e\+06"):
        write_folder(net, ModelFacts.from_checkpoint(read_checkpoint(folder)), tmp_path / "half", half=True)


def test_config_has_the_layout_of_timm(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "d2ls"
    assert config["num_classes"] == 6
    assert config["model_args"] == network().arguments
    assert config["pretrained_cfg"]["input_size"] == [3, 1024, 1024]
    assert config["pretrained_cfg"]["mean"] == pytest.approx([255 * 0.485, 255 * 0.456, 255 * 0.406])
    assert config["pretrained_cfg"]["label_names"] == list(vaihingen.SPEC.classes)
    assert config["versions"]["torch"] == torch.__version__


def test_fields_of_later_versions_are_kept(tmp_path: Path, folder: Path) -> None:
    later = json.loads((folder / "config.json").read_text())["dataset"] | {"sensors": ["x"]}
    change(folder, colour_of_the_sky="blue", dataset=later)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.facts["colour_of_the_sky"] == "blue"
    assert run(folder, "-o", tmp_path / "again") == 0
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["colour_of_the_sky"] == "blue"
    assert config["ground_resolution"] == 0.09


def test_a_wrong_architecture_names_both(folder: Path) -> None:
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    change(folder, model_args=arguments | {"stages": 2})
    with pytest.raises(CheckpointError, match=r"stages=2.*stages=1"):
        read_checkpoint(folder)
    change(folder, model_args=arguments, architecture="unet")
    with pytest.raises(CheckpointError, match=r"'unet', expected 'd2ls'"):
        read_checkpoint(folder)
    change(folder, architecture="d2ls")
    with pytest.raises(CheckpointError, match=r"width=32.*width=48"):
        load_weights(network(width=48), read_checkpoint(folder))


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"architecture": "d2ls", "model_args": {}, "dataset": []}'])
def test_what_is_no_model_folder(folder: Path, content: str | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model.*config\.json.*export_model\.py"):
        read_checkpoint(folder)


def test_weights_of_another_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weight file .*model\.safetensors"):
        read_checkpoint(folder)


def test_card_and_scores(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", network())
    (tmp_path / "metrics.json").write_text(json.dumps(scores_of(path)))
    assert run(path, "-o", tmp_path / "x", "--scores", tmp_path / "metrics.json", "--licence", "MIT") == 0
    card = (tmp_path / "x" / "README.md").read_text()
    header, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert 'license: "mit"' in header
    assert '- {type: "mIoU", value: 0.5000}' in header
    assert "| mIoU | 50.00 | 40.00 to 60.00 |" in text
    assert "| OA | - | - |" in text
    assert text.count("| 10.00 | 20.00 | - | 100.00 |") == 6
    save(tmp_path / "b.ckpt", network())
    with pytest.raises(ConfigError, match=r"metrics\.json: these are scores of the checkpoint .*b\.ckpt has"):
        read_scores(tmp_path / "metrics.json", read_checkpoint(tmp_path / "b.ckpt"))
    (tmp_path / "metrics.json").write_text("{}")
    assert run(path, "-o", tmp_path / "x", "--scores", tmp_path / "metrics.json") == 2


def test_a_bare_checkpoint_with_its_config(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "bare.pth")
    assert run(tmp_path / "bare.pth", "-o", tmp_path / "x") == 2
    assert run(tmp_path / "bare.pth", "-o", tmp_path / "x", "-c", write_config(tmp_path)) == 0
    assert read_checkpoint(tmp_path / "x").arguments["width"] == 32


def test_dinov3_licence_is_told(folder: Path) -> None:
    facts = ModelFacts(arguments={"backbone": "convnext_base.dinov3_lvd1689m"}, spec=vaihingen.SPEC)
    assert "DINOv3 licence" in str(facts.backbone_note)
    assert ModelFacts(arguments={"backbone": "convnext_base"}, spec=vaihingen.SPEC).backbone_note is None


def test_hub_and_back(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that keeps its repositories in a folder."""
    hub = tmp_path / "hub"

    def upload(repo_id: str, folder_path: Path, allow_patterns: list[str]) -> str:
        shutil.copytree(folder_path, hub / repo_id)
        return f"hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, private, exist_ok: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, revision, allow_patterns: str(hub / name))
    assert push_to_hub(folder, "somebody/roofs") == "hub/somebody/roofs"
    again, image = from_pretrained("somebody/roofs"), torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(again.build()(image), read_checkpoint(folder).build()(image))
    assert from_pretrained(folder).spec == vaihingen.SPEC
    net = d2ls.load_model("hf-hub:somebody/roofs@v1", "cpu")
    assert net.classes == vaihingen.SPEC.classes
    with torch.no_grad():
        assert torch.equal(net(image), again.build()(image))


@pytest.mark.usefixtures("no_network")
def test_no_network_says_what_to_do(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"somebody/roofs cannot be downloaded.*download model\.safetensors"):
        from_pretrained("somebody/roofs")
    with pytest.raises(CheckpointError, match=r"hf-hub:somebody/roofs: .*cannot be downloaded"):
        d2ls.load_model("hf-hub:somebody/roofs")
    with pytest.raises(CheckpointError, match=r"somebody/roofs: cannot be uploaded.*hf auth login"):
        push_to_hub(folder, "somebody/roofs")


def test_commands_take_a_folder(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training run starts from it, test and predict run it."""
    config = write_config(run_folder, name="first.py")
    first = load_config(config)
    facts = ModelFacts(arguments=first.net.arguments, spec=vaihingen.SPEC)
    write_folder(first.net, facts, run_folder / "model")
    start = {name: tensor.clone() for name, tensor in first.net.state_dict().items()}
    settings = load_config(write_config(run_folder, after='pretrained_ckpt_path = "model"\n'))
    load_weights(settings.net, read_checkpoint(settings.pretrained_ckpt_path))
    assert all(torch.equal(tensor, start[name]) for name, tensor in settings.net.state_dict().items())
    assert run_main(train_main, ["-c", str(settings.path), "max_epoch=1", "lr=1e-6"]) == 0
    trained = read_checkpoint(run_folder / "model_weights" / "vaihingen" / "tiny" / "tiny.ckpt")
    assert all(torch.allclose(trained.weights[name], start[name], atol=1e-3) for name in ("dictionary.table",))
    assert run_main(importlib.import_module("test_vaihingen").main, ["-w", "model", "-o", "masks"]) == 0
    image = next(iter(vaihingen.test().pairs)).image
    assert run_main(predict_main, ["-w", "model", "-i", str(image), "-o", "maps"]) == 0
    assert list((run_folder / "maps").iterdir())

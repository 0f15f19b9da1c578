"""The test scripts through their command lines, on drawn and on real images."""

import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from d2ls.cli import test as command
from d2ls.cli.common import run_main
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.io import read_colours, read_image, read_index, write_png
from d2ls.data.labels import colours_to_index, read_colour_mask
from d2ls.data.sets import find, names, uavid
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.inference.results import Masks
from tests.parity.cases import weights as reference_weights

ROOT = Path(__file__).resolve().parents[2]
CheckpointOf = Callable[[DatasetSpec], Path]
DATASETS = {name: importlib.import_module(f"d2ls.data.sets.{name}") for name in names()}
FRAME_SPECS = uavid.FACTS.frame_specs
WINDOWS = ("-ph", "48", "-pw", "64", "-b", "2")


def run(name: str, *words: object) -> int:
    """The exit code of test_<name>.py."""
    main = importlib.import_module(f"test_{name}").main
    return run_main(main, [str(word) for word in words])


def images_of(name: str) -> SegmentationDataset:
    return DATASETS[name].test() if name != "uavid" else uavid.test()


def tree(folder: Path) -> dict[str, bytes]:
    """The masks of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def by_hand(folder: Path, dataset: SegmentationDataset, *, coloured: bool) -> tuple[np.ndarray, np.ndarray]:
    """True and written classes of all labelled pixels, read back from the written masks."""
    spec, truths, written = dataset.spec, [], []
    for pair in dataset.pairs:
        path = Masks(folder, spec).path(pair.name)
        mask = colours_to_index(read_colours(path), spec, path=path) if coloured else read_index(path)
        assert mask.shape == read_image(pair.image).shape[:2]
        truth = dataset.read_mask(pair)
        if truth is not None:
            truths.append(truth[truth != spec.ignore_index])
            written.append(mask[truth != spec.ignore_index])
    return np.concatenate(truths), np.concatenate(written)


def check_scores(found: dict, truth: np.ndarray, written: np.ndarray, spec: DatasetSpec) -> None:
    """The scores of a run are scikit-learn's on its masks."""
    present = [k for k in spec.scored if k in truth or k in written]
    options = {"labels": present, "average": "macro", "zero_division": 0}
    assert found["mIoU"] == pytest.approx(oracle.jaccard_score(truth, written, **options), abs=1e-9)
    assert found["F1"] == pytest.approx(oracle.f1_score(truth, written, **options), abs=1e-9)
    assert found["OA"] == pytest.approx(oracle.accuracy_score(truth, written), abs=1e-9)
    classes = range(spec.num_classes)
    assert found["confusion"] == oracle.confusion_matrix(truth, written, labels=classes).tolist()


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("views", ["none", "lr", "d4"])
@pytest.mark.parametrize("rgb", [False, True])
def test_every_script_on_drawn_images(
    name: str, views: str, rgb: bool, data: Path, checkpoint: CheckpointOf, tmp_path: Path
) -> None:
    spec, out = DATASETS[name].SPEC, tmp_path / "out"
    words: list[object] = ["-w", checkpoint(spec), "-o", out, "-t", views, *(["--rgb"] if rgb else [])]
    words += WINDOWS if name == "uavid" else ()
    words += ["--index"] if name == "uavid" and not rgb else []
    words += ["-i", data / "uavid" / "uavid_val"] if name == "uavid" else ["--val"] if name == "loveda" else []
    assert run(name, *words) == 0
    dataset = images_of(name) if name != "loveda" else DATASETS[name].val()
    dataset = uavid.test(data / "uavid" / "uavid_val") if name == "uavid" else dataset
    truth, written = by_hand(out, dataset, coloured=rgb)
    found = json.loads((out / "metrics.json").read_text())
    check_scores(found, truth, written, spec)
    assert found["run"]["views"]["number"] == {"none": 1, "lr": 4, "d4": len(find(name).d4)}[views]
    assert len(np.unique(written)) > 1  # an untrained network, but not a constant one
    assert len(tree(out)) == len(dataset.pairs)


def test_views_and_window_batches_change_little_or_nothing(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path
) -> None:
    weights = checkpoint(DATASETS["vaihingen"].SPEC)
    for out, words in {"a": (), "b": ("-b", 3, "--tta-batch", 8, "--workers", 1)}.items():
        assert run("vaihingen", "-w", weights, "-o", tmp_path / out, "-t", "d4", *words) == 0
    one, other = ({n: read_index(tmp_path / d / n) for n in tree(tmp_path / d)} for d in "ab")
    assert np.mean([np.mean(one[name] != other[name]) for name in one]) < 1e-3  # ties that rounding decides


def test_the_masks_are_the_networks_own_largest_logits(data: Path, checkpoint: CheckpointOf, tmp_path: Path) -> None:
    from d2ls.checkpoint import read_checkpoint  # noqa: PLC0415

    weights = checkpoint(DATASETS["potsdam"].SPEC)
    assert run("potsdam", "-w", weights, "-o", tmp_path) == 0
    net, dataset = read_checkpoint(weights).build(), DATASETS["potsdam"].test()
    for item in range(len(dataset)):
        sample = dataset[item]
        with torch.no_grad():
            expected = net(sample["image"][None]).argmax(dim=1)[0].numpy()
        found = read_index(tmp_path / f"{sample['name']}.png")
        assert np.mean(found != expected) < 1e-3


def test_a_config_names_network_images_and_checkpoint(
    data: Path, config: CheckpointOf, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pretrained file that the config names does not exist: a config is read for testing without it."""
    spec = DATASETS["dubai"].SPEC
    weights = checkpoint(spec)
    assert run("dubai", "-c", config(spec), "-o", tmp_path / "a", "-t", "lr") == 0
    assert run("dubai", "-w", weights, "-o", tmp_path / "b", "-t", "lr") == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["config_sha256"]
    assert record["checkpoint"] == str(weights)
    assert record["command"].startswith("test_dubai.py -c ")
    other = tmp_path / "elsewhere"
    assert run("dubai", "-c", config(spec), "-o", tmp_path / "c", f"weights_path={other}") == 2
    message = capsys.readouterr().err
    assert f"{other / 'dubai.ckpt'}" in message
    assert f"{other / 'last.ckpt'}" in message
    assert "-w" in message
    assert not (tmp_path / "c").exists()
    other.mkdir()
    shutil.copy(weights, other / "last.ckpt")
    assert run("dubai", "-c", config(spec), "-o", tmp_path / "c", f"weights_path={other}", "-t", "lr") == 0
    assert "last.ckpt" in capsys.readouterr().out
    assert tree(tmp_path / "c") == tree(tmp_path / "b")


@pytest.mark.parametrize(
    ("script", "config_of", "weights_of", "settings", "told"),
    [
        ("vaihingen", "loveda", "loveda", [], ["loveda", "vaihingen"]),
        ("vaihingen", "vaihingen", "loveda", [], ["agricultural", "Clutter"]),
        ("vaihingen", None, "dubai", [], ["Vegetation", "Clutter"]),
        ("vaihingen", "vaihingen", "vaihingen", ["stages=2"], ["stages=1", "stages=2"]),
        ("vaihingen", "vaihingen", "vaihingen", ["backbone=test_resnet"], ["'test_convnext'", "'test_resnet'"]),
    ],
)
def test_parts_that_disagree_are_shown_both(
    script: str, config_of: str | None, weights_of: str, settings: list[str], told: list[str],
    data: Path, config: CheckpointOf, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [] if config_of is None else ["-c", config(DATASETS[config_of].SPEC)]
    words += ["-w", checkpoint(DATASETS[weights_of].SPEC), *settings]
    assert run(script, "-o", tmp_path / "out", *words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(part in message for part in told), message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def single_pixels(tmp_path: Path, config: CheckpointOf) -> Path:
    """A config of dubai whose network is a function of single pixels."""
    spec, path = DATASETS["dubai"].SPEC, config(DATASETS["dubai"].SPEC)
    text = path.read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("net = "))
    text = text.replace(line, f"from torch import nn\nnet = nn.Conv2d(3, {spec.num_classes}, 1)")
    (line,) = (line for line in text.splitlines() if line.startswith("weights_path = "))
    path.write_text(text.replace(line, f'weights_path = "{tmp_path.as_posix()}"'))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torch.nn.Conv2d(3, spec.num_classes, 1).state_dict()
    torch.save({"state_dict": {f"net.{name}": tensor for name, tensor in state.items()}}, tmp_path / "dubai.ckpt")
    return path


@pytest.mark.parametrize("views", ["none", "d4"])
@pytest.mark.parametrize("words", [("--window", 24), ("test_window=32", "test_overlap=0.0"), ("--window", 32, "-b", 3)])
def test_windows_change_nothing_for_a_network_of_single_pixels(
    views: str, words: tuple[object, ...], data: Path, single_pixels: Path, tmp_path: Path
) -> None:
    for out, more in {"whole": (), "windows": words}.items():
        assert run("dubai", "-c", single_pixels, "-o", tmp_path / out, "-t", views, "--report", *more) == 0
    assert tree(tmp_path / "whole") == tree(tmp_path / "windows")
    whole, windows = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("whole", "windows"))
    assert whole.pop("run")["windows"] is None
    assert windows.pop("run")["windows"]["width"] in (24, 32)
    assert whole == windows


def test_the_option_replaces_the_setting_and_a_large_window_is_the_whole_image(
    data: Path, config: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-c", config(DATASETS["dubai"].SPEC), "-o"]
    for out, more in {
        "whole": (), "large": ("--window", 512), "option": ("--window", 32), "setting": ("test_window=32",),
        "both": ("test_window=16", "test_overlap=0.5", "--window", 32, "--overlap", 0.25),
    }.items():  # fmt: skip
        assert run("dubai", *words, tmp_path / out, *more) == 0
    made = {out: tree(tmp_path / out) for out in ("whole", "large", "option", "setting", "both")}
    assert made["whole"] == made["large"] != made["option"] == made["setting"] == made["both"]
    assert run("dubai", *words, tmp_path / "option", "--resume") == 2
    assert "windows" in capsys.readouterr().err
    assert run("dubai", *words, tmp_path / "option", "test_window=32", "--resume") == 0
    for wrong in ("test_window=0", "test_window=half", "test_overlap=0.95"):
        assert run("dubai", *words, tmp_path / "wrong", wrong) == 2
        assert wrong.partition("=")[0] in capsys.readouterr().err
    assert run("dubai", *words, tmp_path / "wrong", "--overlap", 0.5) == 2
    assert "--window" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_square_windows_of_frames(data: Path, checkpoint: CheckpointOf, tmp_path: Path) -> None:
    words = ["-i", data / "uavid" / "uavid_val", "-w", checkpoint(uavid.SPEC)]
    assert run("uavid", *words, "-o", tmp_path / "a", "--window", 64, "-t", "lr") == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["windows"] == {"height": 64, "width": 64, "overlap": 0.25, "padded": False}
    assert (tmp_path / "a" / "metrics.json").exists()


def test_a_checkpoint_of_reference_names(data: Path, config: CheckpointOf, tmp_path: Path) -> None:
    """The shipped shapes (ConvNeXt-T, six classes, three stages) with made-up values, as Lightning would save them."""
    shapes = json.loads((ROOT / "tests" / "parity" / "state_convnext_tiny.json").read_text())
    state = {f"net.{name}": torch.as_tensor(reference_weights(name, shape)) for name, shape in shapes.items()}
    torch.save({"state_dict": state}, tmp_path / "reference.ckpt")
    path = config(DATASETS["vaihingen"].SPEC)
    path.write_text(path.read_text().replace("width=32, ", ""))
    words = ["-c", path, "-w", tmp_path / "reference.ckpt", "backbone=convnext_tiny", "stages=3"]
    assert run("vaihingen", *words, "-o", tmp_path / "out") == 0
    assert len(tree(tmp_path / "out")) == 3
    assert (tmp_path / "out" / "metrics.json").exists()


def test_a_checkpoint_that_would_run_code_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"state_dict": {}, "extra": Harmful()}, tmp_path / "bad.ckpt")
    assert run("dubai", "-w", tmp_path / "bad.ckpt", "-o", tmp_path / "out") == 2
    assert "bad.ckpt" in capsys.readouterr().err
    assert not (tmp_path / "harmed").exists()
    assert not (tmp_path / "out").exists()


def test_interrupted_and_resumed_is_a_clean_run(
    data: Path,
    checkpoint: CheckpointOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["-w", checkpoint(DATASETS["vaihingen"].SPEC), "--rgb", "-t", "lr", "--workers", 1]
    assert run("vaihingen", *words, "-o", tmp_path / "clean") == 0
    out, write, written = tmp_path / "out", Masks.write, []

    def fail_at_third(self: Masks, name: str, index: np.ndarray) -> None:
        if len(written) == 2:
            raise DataError("no space left")
        written.append(name)
        write(self, name, index)

    with monkeypatch.context() as patch:
        patch.setattr(Masks, "write", fail_at_third)
        assert run("vaihingen", *words, "-o", out) == 2
    assert "no space left" in capsys.readouterr().err
    assert len(tree(out)) == 2
    assert not (out / "metrics.json").exists()
    assert not [path for path in out.iterdir() if path.suffix == ".part"]
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert run("vaihingen", *words, "-o", out, "--resume") == 0
    assert tree(out) == tree(tmp_path / "clean")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    scores = [json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path / "clean")]
    for found in scores:
        found.pop("run")
    assert scores[0] == scores[1]


def test_only_the_same_run_is_resumed_and_another_one_starts_clean(
    data: Path,
    checkpoint: CheckpointOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["-w", checkpoint(DATASETS["cloud"].SPEC), "-o", tmp_path]
    assert run("cloud", *words) == 0
    before = tree(tmp_path)
    assert run("cloud", *words, "--resume", "-t", "lr") == 2
    assert "views" in capsys.readouterr().err
    assert tree(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(Masks, "write", lambda *_: (_ for _ in ()).throw(DataError("no space left")))
        assert run("cloud", *words, "-t", "lr") == 2
    assert tree(tmp_path) == {}  # none of the other run, which --resume would take for its own
    assert not (tmp_path / "metrics.json").exists()


def test_masks_made_elsewhere_are_resumed_and_scored_as_they_are(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path
) -> None:
    dataset = DATASETS["cloud"].test()
    pair = dataset.pairs[0]
    truth = dataset.read_mask(pair)
    write_png(tmp_path / f"{pair.name}.png", truth)
    assert run("cloud", "-w", checkpoint(dataset.spec), "-o", tmp_path, "--resume") == 0
    assert (read_index(tmp_path / f"{pair.name}.png") == truth).all()
    images = {image["name"]: image for image in json.loads((tmp_path / "metrics.json").read_text())["images"]}
    assert images[pair.name]["OA"] == 1


def test_loveda_without_labels_and_its_submission(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = tmp_path / "out", tmp_path / "loveda.zip"
    words = ["-w", checkpoint(DATASETS["loveda"].SPEC), "-o", out]
    assert run("loveda", *words, "--submission", place) == 0
    text = capsys.readouterr().out
    assert "no labels, so no scores" in text
    assert "expects all 1796" in " ".join(text.split())
    assert not (out / "metrics.json").exists()
    with zipfile.ZipFile(place) as archive:
        assert set(archive.namelist()) == tree(out).keys()
        for name in archive.namelist():
            (tmp_path / "sent.png").write_bytes(archive.read(name))
            assert np.array_equal(read_index(tmp_path / "sent.png"), read_index(out / name))
    for extra in ("--rgb", "--val"):
        assert run("loveda", *words, "--submission", place, extra) == 2
        assert "--submission" in capsys.readouterr().err
    write_png(out / "stray.png", np.zeros((4, 4), np.uint8))
    place.unlink()
    assert run("loveda", *words, "--submission", place, "--resume") == 1
    assert "stray.png" in capsys.readouterr().err
    assert not place.exists()


def test_uavid_frames_smaller_than_a_window_blended_and_submitted(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-i", data / "uavid" / "uavid_test", "-w", checkpoint(uavid.SPEC), "--overlap", 0.25]
    place = tmp_path / "uavid.zip"
    assert run("uavid", *words, "-o", tmp_path / "out", "-ph", 128, "-pw", 100, "--submission", place) == 0
    assert "no labels, so no scores" in capsys.readouterr().out
    with zipfile.ZipFile(place) as archive:
        assert archive.namelist() == ["seq21/Labels/000000.png", "seq21/Labels/000100.png"]
    assert run("uavid", *words, "-o", tmp_path / "b", "--index", "--submission", place) == 2
    assert run("uavid", *words, "-o", tmp_path / "b", "--rgb", "--index") == 2
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("colours", FRAME_SPECS)
def test_uavid_in_the_colours_of_other_data_sets(
    colours: str, data: Path, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-i", data / "uavid" / "uavid_test", "-o", tmp_path, *WINDOWS, "-d", colours]
    spec = FRAME_SPECS[colours]
    assert run("uavid", "-w", checkpoint(spec), *words) == 0
    for path in tmp_path.rglob("*.png"):
        found = {tuple(colour) for colour in np.unique(read_colours(path).reshape(-1, 3), axis=0).tolist()}
        assert found <= set(spec.colours)
    other = uavid.SPEC if colours != "uavid" else FRAME_SPECS["pv"]
    assert run("uavid", "-w", checkpoint(other), *words) == 2
    assert other.classes[0] in capsys.readouterr().err


def test_legends(data: Path, checkpoint: CheckpointOf, tmp_path: Path) -> None:
    spec = DATASETS["vaihingen"].SPEC
    for legend in ("official", "reference"):
        words = ["-w", checkpoint(spec), "-o", tmp_path / legend, "--rgb", "--legend", legend]
        assert run("vaihingen", *words) == 0
    official, reference = (
        {n: read_colours(tmp_path / k / n) for n in tree(tmp_path / k)} for k in ("official", "reference")
    )
    for name, pixels in official.items():
        car = (pixels == (255, 255, 0)).all(axis=-1)
        assert (reference[name][car] == (255, 204, 0)).all()
        assert (reference[name][~car] == pixels[~car]).all()
    assert any((pixels == (255, 255, 0)).all(axis=-1).any() for pixels in official.values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_low_precision_agrees_with_float32(
    precision: str, data: Path, checkpoint: CheckpointOf, tmp_path: Path
) -> None:
    words = ["-w", checkpoint(DATASETS["grass"].SPEC), "-t", "lr"]
    assert run("grass", *words, "-o", tmp_path / "a") == 0
    assert run("grass", *words, "-o", tmp_path / "b", "--precision", precision) == 0
    one, other = (np.stack([read_index(tmp_path / d / n) for n in tree(tmp_path / d)]) for d in "ab")
    assert (one == other).mean() > 0.8  # untrained: many near ties
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["run"]["precision"] == precision


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "-c"),
        (["-w", "no/such.ckpt"], "no/such.ckpt"),
        (["-c", "no/such.py"], "no/such.py"),
        (["-w", "GOOD", "--device", "warp"], "--device warp"),
        (["-w", "GOOD", "--device", "cuda:99"], "--device cuda:99"),
        (["-w", "GOOD", "stages=2"], "-c"),
    ],
)
def test_wrong_use_is_told_in_one_line_and_leaves_nothing(
    words: list[str],
    told: str,
    data: Path,
    checkpoint: CheckpointOf,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = str(checkpoint(DATASETS["cloud"].SPEC))
    assert run("cloud", "-o", tmp_path / "out", *[good if word == "GOOD" else word for word in words]) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_damaged_and_missing_images_are_named(
    drawn: Path,
    checkpoint: CheckpointOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(drawn / "cloud", tmp_path / "data" / "cloud")
    monkeypatch.setenv("D2LS_DATA", str(tmp_path / "data"))
    words = ["-w", checkpoint(DATASETS["cloud"].SPEC), "-o", tmp_path / "out"]
    image = max((tmp_path / "data" / "cloud" / "img_dir" / "test").iterdir())
    image.write_bytes(image.read_bytes()[:-40])
    assert run("cloud", *words) == 2
    message = capsys.readouterr().err
    assert str(image) in message
    assert "Traceback" not in message
    shutil.rmtree(image.parent)
    assert run("cloud", *words) == 2
    assert str(image.parent) in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    assert run("cloud", "-w", checkpoint(DATASETS["cloud"].SPEC), "-o", tmp_path / "out") == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_logits_that_are_no_numbers(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint(DATASETS["cloud"].SPEC), weights_only=True)
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    assert run("cloud", "-w", tmp_path / "nan.ckpt", "-o", tmp_path / "out") == 2
    assert "no finite numbers" in capsys.readouterr().err
    assert tree(tmp_path / "out") == {}


def test_as_a_process(data: Path, checkpoint: CheckpointOf, tmp_path: Path) -> None:
    """The script itself, from another folder: nothing on stderr where all is well."""
    words = ["-w", str(checkpoint(uavid.SPEC)), "-o", "out", "-t", "lr", *WINDOWS]
    started = subprocess.run(
        [sys.executable, str(ROOT / "test_uavid.py"), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (started.returncode, started.stderr) == (0, "")
    assert tree(tmp_path / "out").keys() == {"seq21/Labels/000000.png", "seq21/Labels/000100.png"}


@pytest.mark.parametrize("words", [["-t", "all"], ["-b", "0"], ["--precision", "8"], ["--vall"]])
def test_words_that_the_parser_refuses(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("vaihingen", "-w", "some.ckpt", "-o", tmp_path / "out", *words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def real_images(name: str, source: Path, root: Path) -> None:
    """A few real pictures in the layout that the script reads."""
    if name in ("vaihingen", "potsdam"):
        image, mask = (next((source / name / part).iterdir()) for part in ("test_images", "test_masks_eroded"))
        for part, pixels in (
            ("images_1024", read_image(image)),
            ("masks_1024", read_colour_mask(mask, DATASETS[name].SPEC)),
        ):
            (root / name / "test" / part).mkdir(parents=True)
            write_png(root / name / "test" / part / "tile.png", pixels)
    elif name == "dubai":
        for kind in ("images", "masks"):
            (root / "dubai" / kind / "val").mkdir(parents=True)
            for path in sorted((source / "dubai" / kind / "val").iterdir())[:2]:
                (root / "dubai" / kind / "val" / path.name).symlink_to(path)
    else:
        folder = {"loveda": "LoveDA"}.get(name, name)
        root.mkdir()
        (root / folder).symlink_to(source / folder)


@pytest.mark.filterwarnings("ignore:.*no folder images_png")  # the samples have no Urban folder
@pytest.mark.parametrize("name", ["vaihingen", "potsdam", "loveda", "cloud", "dubai"])
def test_on_real_images(
    name: str, shared_data: Path, checkpoint: CheckpointOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_images(name, shared_data, tmp_path / "data")
    monkeypatch.setenv("D2LS_DATA", str(tmp_path / "data"))
    words = ["-w", checkpoint(DATASETS[name].SPEC), "-o", tmp_path / "out", "--rgb"]
    assert run(name, *words, *(["--val"] if name == "loveda" else [])) == 0
    dataset = DATASETS[name].val() if name == "loveda" else DATASETS[name].test()
    truth, written = by_hand(tmp_path / "out", dataset, coloured=True)
    check_scores(json.loads((tmp_path / "out" / "metrics.json").read_text()), truth, written, DATASETS[name].SPEC)


def test_views_of_every_script_are_known() -> None:
    assert {path.stem for path in ROOT.glob("test_*.py")} == {f"test_{name}" for name in DATASETS}
    for name in DATASETS:
        options = {option for action in command.parser(name)._actions for option in action.option_strings}
        wanted = {
            "-c",
            "-o",
            "-t",
            "-w",
            "-b",
            "--tta-batch",
            "--device",
            "--precision",
            "--rgb",
            "--resume",
            "--legend",
        }
        assert wanted <= options

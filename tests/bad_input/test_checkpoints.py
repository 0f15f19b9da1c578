"""Weight files that cannot be used, or that would harm, through everything that reads one."""

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d2ls.checkpoint import KEY
from d2ls.data.sets import cloud, dubai
from tests.bad_input.running import call, refused

Spoil = Callable[[Path, dict[str, Any]], object]


class Harmful:
    """Runs code where it is unpickled without care: makes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("harmed",)


def changed(**changes: Any) -> Spoil:
    return lambda path, content: torch.save(content | changes, path)


def described(**changes: Any) -> Spoil:
    return lambda path, content: torch.save(content | {KEY: content[KEY] | changes}, path)


def saved(content: Any) -> Spoil:
    return lambda path, _: torch.save(content, path)


def one_bit(path: Path, content: dict[str, Any]) -> None:
    """A bit of a weight: torch itself would load it and give another network."""
    torch.save(content, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda member: member.file_size)
    data[member.header_offset + 200 + member.file_size // 2] ^= 64
    path.write_bytes(data)


def folder_instead(path: Path, _: Any) -> None:
    path.mkdir()


def pipe_instead(path: Path, _: Any) -> None:
    os.mkfifo(path)


FILES: dict[str, tuple[Spoil, str]] = {
    "empty": (lambda path, _: path.write_bytes(b""), "cannot be read as a weight file"),
    "text": (lambda path, _: path.write_text("weights"), "cannot be read as a weight file"),
    "a folder": (folder_instead, "no weight file bad.ckpt"),
    "a pipe": (pipe_instead, "no weight file bad.ckpt"),
    "cut": (
        lambda path, content: (torch.save(content, path), path.write_bytes(path.read_bytes()[:-2000])),
        "cannot be read",
    ),
    "cut in half": (
        lambda path, content: (torch.save(content, path), path.write_bytes(path.read_bytes()[:20_000])),
        "cannot be read",
    ),
    "one bit": (one_bit, "the checksum of its part"),
    "another zip": (lambda path, _: zipfile.ZipFile(path, "w").writestr("a.txt", "hello"), "cannot be read"),
    "code": (changed(extra=Harmful()), "nothing that needs code to load"),
    "code alone": (saved(Harmful()), "nothing that needs code to load"),
    "a number": (saved(3), "no tensors by name"),
    "a list": (saved([torch.zeros(3)]), "no tensors by name"),
    "no tensors": (saved({"state_dict": {}}), "no tensors by name"),
}


@pytest.fixture
def content(weights: Callable[..., Path]) -> dict[str, Any]:
    """That of a good checkpoint of cloud."""
    return torch.load(weights(cloud.SPEC), weights_only=True)


ENTRIES = {
    "test_cloud": FILES,
    "resume_ckpt_path": FILES,
    "pretrained": ("text", "cut", "one bit", "code", "code alone"),
    "pretrained_ckpt_path": ("text", "cut", "one bit", "code", "code alone"),
}
"""Everything that reads a weight file, with the kinds that are tried there."""


@pytest.mark.parametrize(("entry", "kind"), [(entry, kind) for entry, kinds in ENTRIES.items() for kind in kinds])
def test_files(
    kind: str, entry: str, content: dict[str, Any], run_folder: Path, pictures: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path,
) -> None:  # fmt: skip
    """Everything that reads a weight file: a test, ImageNet weights, weights to start from, a run to continue."""
    spoil, told = FILES[kind]
    spoil(Path("bad.ckpt"), content)
    if entry == "test_cloud":
        refused(capfd, "test_cloud", "-w", "bad.ckpt", "-o", "out", told=("bad.ckpt", told))
    else:
        monkeypatch.setenv("D2LS_DATA", str(tiny_data))
        told = "no checkpoint bad.ckpt" if entry == "resume_ckpt_path" and told.startswith("no weight") else told
        refused(capfd, "train", "-c", "tiny.py", f"{entry}=bad.ckpt", told=("bad.ckpt", told))
    assert not Path("harmed").exists()


DESCRIPTIONS: dict[str, tuple[Spoil, str]] = {
    "of another data set": (lambda path, content: None, "trained on the classes Building"),
    "no mapping": (changed(**{KEY: 5}), KEY),
    "arguments that are none": (described(model=[1, 2]), "model"),
    "unknown arguments": (described(model={"magic": 1}), "magic"),
    "an argument of the wrong kind": (described(model={"backbone": 7}), "(d2ls, model) cannot be built"),
    "a network from the network": (described(model={"backbone": "hf-hub:someone/net"}), "hf-hub:someone/net"),
    "classes without colours": (described(dataset={"name": "x", "classes": ["a", "b"]}), "(d2ls: dataset) is damaged"),
    "classes that are none": (described(dataset=["a", "b"]), "dataset"),
    "more classes than the network": (
        lambda path, content: described(model=content[KEY]["model"] | {"num_classes": 9})(path, content),
        "missing",
    ),
    "a wider network": (
        lambda path, content: described(model=content[KEY]["model"] | {"width": 64})(path, content),
        "shape",
    ),
    "more stages": (
        lambda path, content: described(model=content[KEY]["model"] | {"stages": 2})(path, content),
        "missing",
    ),
    "no description": (lambda path, content: torch.save({"state_dict": content["state_dict"]}, path), "-c"),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
@pytest.mark.usefixtures("no_network")
def test_descriptions(
    kind: str, content: dict[str, Any], pictures: Path, weights: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, told = DESCRIPTIONS[kind]
    spoil(Path("bad.ckpt"), content)
    path = weights(dubai.SPEC) if kind == "of another data set" else "bad.ckpt"
    refused(capfd, "test_cloud", "-w", path, "-o", "out", told=(Path(path).name, told))


@pytest.mark.usefixtures("no_network")
def test_a_description_that_asks_for_weights_fetches_none(content: dict[str, Any], pictures: Path) -> None:
    described(model=content[KEY]["model"] | {"pretrained": True})(Path("asking.ckpt"), content)
    assert call("test_cloud", "-w", "asking.ckpt", "-o", "out") == 0


def test_weights_that_are_no_numbers(
    content: dict[str, Any], pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    torch.save(content, "bad.ckpt")
    words = ("-w", "bad.ckpt", "-o", "out")
    refused(capfd, "test_cloud", *words, told=("img_dir/test", "no finite numbers"), begun=True)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 8 + b"{}", struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 9) + b"not  json"],
    ids=["empty", "a header of 2^64 bytes", "a header of a terabyte", "no JSON"],
)
def test_safetensors(data: bytes, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("bad.safetensors").write_bytes(data)
    told = ("bad.safetensors", "cannot be read as a weight file")
    refused(capfd, "test_cloud", "-w", "bad.safetensors", "-o", "out", told=told)

"""The page of a run, read as a browser and as a person would."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import test_dubai
import test_loveda
import test_uavid
from d2ls.checkpoint import KEY, describe
from d2ls.cli.common import run_main
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.io import write_png
from d2ls.data.labels import read_index_mask
from d2ls.data.pairs import Pair
from d2ls.data.sets import dubai, loveda, uavid
from d2ls.data.spec import DatasetSpec
from d2ls.inference.results import Masks
from d2ls.inference.scores import Tally
from d2ls.models import DynamicDictionaryLearning
from d2ls.report import page
from tests.report.conftest import Run

CheckpointOf = Callable[[DatasetSpec], Path]
VOID = {"meta", "img", "line", "br"}
LOADS = ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "background")
MEGABYTE = 1_000_000


class Page(HTMLParser):
    """Elements, text of each, and a complaint about elements that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, list[list[str]]] = {}  # of each table, by its class
        self.sections: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in VOID:
            self._open.append((tag, found.get("aria-labelledby") or found.get("id") or ""))
        if tag == "table":
            self.rows[found["aria-labelledby"] or ""] = []
        if tag == "tr":
            self.rows[self._inside("table")].append([])
        if tag in {"td", "th"}:
            self.rows[self._inside("table")][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, text: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "td" in tags or "th" in tags:
            self.rows[self._inside("table")][-1][-1] += text
        if "section" in tags:
            name = self._inside("section")
            self.sections[name] = self.sections.get(name, "") + text

    def _inside(self, tag: str) -> str:
        return next(name for opened, name in reversed(self._open) if opened == tag)

    def pictures(self) -> list[Image.Image]:
        found = []
        for tag, attributes in self.elements:
            if tag == "img":
                head, code = str(attributes["src"]).split(",")
                assert re.fullmatch(r"data:image/(png|webp);base64", head)
                picture = Image.open(io.BytesIO(base64.b64decode(code, validate=True)))
                picture.load()
                assert picture.size == (int(attributes["width"] or 0), int(attributes["height"] or 0))
                assert str(attributes["alt"]).strip()
                found.append(picture)
        return found


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def test_the_page_needs_nothing_but_itself(run: Run) -> None:
    content = Page(run.page)
    for tag, attributes in content.elements:
        for name in LOADS:
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/" if tag == "img" else "#"), (tag, name)
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") for name in attributes)
    words = re.sub(r"data:image/[^\"]+", "", run.page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", words)
    (policy,) = [a["content"] for _, a in content.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in str(policy)
    # The photograph, truth, prediction and errors of nine images; the image of the dictionary, six entries, one stage.
    assert len(content.pictures()) == 4 * 9 + 1 + 6 + 6


def test_names_and_ids_are_whole(run: Run) -> None:
    content = Page(run.page)
    assert max(Counter(a["id"] for _, a in content.elements if "id" in a).values()) == 1
    ids = {a["id"] for _, a in content.elements if "id" in a}
    for tag, attributes in content.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        if tag == "a":
            assert str(attributes["href"])[1:] in ids
        assert tag not in {"b", "i"} or not attributes  # names have not become elements


def test_odd_names_are_shown_as_they_are(run: Run) -> None:
    content = Page(run.page)
    table = content.rows["each-caption"]
    assert [row[0] for row in table[1:]] == sorted(run.names)
    assert run.metrics["run"]["command"] in content.sections["run-title"]
    assert run.names[0] in content.sections["scores-title"]


def test_the_numbers_are_those_of_metrics_json(run: Run) -> None:
    content, found = Page(run.page), run.metrics
    rows = {row[0].removesuffix(" †"): row[1:] for row in content.rows["classes-caption"][1:]}
    for name, scores in found["per_class"].items():
        expected = [percent(scores[key]) for key in ("IoU", "F1", "precision", "recall")]
        assert rows[name] == [*expected, f"{scores['pixels']:,}"]
    assert rows["Mean"][:2] == [percent(found["mIoU"]), percent(found["F1"])]
    head = re.sub(r"\s+", " ", run.page.split("<main>")[0])
    for name in ("mIoU", "F1", "OA"):
        low, high = found["intervals"][name]
        assert f">{percent(found[name])}<" in head
        assert f"{percent(low)} to {percent(high)}" in head
    for row, counts in zip(content.rows["confusion-caption"][1:], found["confusion"], strict=True):
        shares = [f"{100 * count / sum(counts):.1f}" if sum(counts) else "\u2013" for count in counts]
        assert row[1:] == shares
    for row, image in zip(content.rows["each-caption"][1:], found["images"], strict=True):
        assert row == [image["name"], *(percent(image[k]) for k in ("mIoU", "F1", "OA")), f"{image['pixels']:,}"]
    settings = content.sections["run-title"]
    for key in ("checkpoint", "checkpoint_sha256", "precision", "device", "torch"):
        assert found["run"][key] in settings


def test_best_median_and_worst_are_told(run: Run) -> None:
    order = sorted(run.metrics["images"], key=lambda image: (-image["mIoU"], image["name"]))
    shown = re.findall(r"rank (\d+) of 19;", run.page)
    assert [int(rank) for rank in shown] == [1, 2, 3, 9, 10, 11, 17, 18, 19]
    told = Page(run.page).sections["images-title"]
    places = [told.index(order[int(rank) - 1]["name"] + "\n") for rank in shown]
    assert places == sorted(places)
    assert f"mIoU {percent(order[0]['mIoU'])}" in told


def test_the_dictionarys_numbers_are_distributions_and_cosines(run: Run) -> None:
    content = Page(run.page)
    for row in content.rows["weights-caption"][2:]:
        assert sum(map(float, row[1:])) == pytest.approx(1, abs=0.003)
    for kind in ("static", "dynamic"):
        rows = content.rows[f"{kind}-caption"][1:]
        found = np.array([[float(value.replace("\u2212", "-")) for value in row[1:]] for row in rows])
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_array_equal(np.diag(found), 1)
        assert [row[0] for row in rows] == list(dubai.SPEC.classes)
    static, dynamic = (content.rows[f"{kind}-caption"] for kind in ("static", "dynamic"))
    assert static[1:] != dynamic[1:]


def test_without_labels_there_are_pictures_and_the_dictionary(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path
) -> None:
    assert (
        run_main(test_loveda.main, ["-w", str(checkpoint(loveda.SPEC)), "-o", str(tmp_path), "--report", "--rgb"]) == 0
    )
    content = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert set(content.rows) == {"weights-caption", "static-caption", "dynamic-caption"}
    assert "no labels" in (tmp_path / "report.html").read_text(encoding="utf-8")
    images = len(list(tmp_path.rglob("*.png")))
    assert len(content.pictures()) == 2 * images + 1 + 7 + 7


def test_frames_are_shown_with_a_window_of_theirs(data: Path, checkpoint: CheckpointOf, tmp_path: Path) -> None:
    words = ["-w", checkpoint(uavid.SPEC), "-o", tmp_path, "-ph", 48, "-pw", 64, "--report-image", "seq1/000000"]
    words += ["-i", data / "uavid" / "uavid_val"]
    names = [pair.name for pair in uavid.test(data / "uavid" / "uavid_val").pairs]
    words[words.index("seq1/000000")] = names[-1]
    assert run_main(test_uavid.main, [str(word) for word in words]) == 0
    content = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"Read for the image {names[-1]}" in content.sections["dictionary-title"]
    assert "64 \u00d7 48 px" in content.sections["dictionary-title"]
    assert content.pictures()


def test_an_image_that_is_not_there_is_told_before_anything_is_written(
    data: Path, checkpoint: CheckpointOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-w", str(checkpoint(dubai.SPEC)), "-o", str(tmp_path / "out"), "--report-image", "nowhere"]
    assert run_main(test_dubai.main, words) == 2
    message = capsys.readouterr().err
    assert "nowhere" in message
    assert dubai.test().pairs[0].name in message
    assert not (tmp_path / "out").exists()


def test_a_network_without_a_dictionary_is_told_and_a_new_run_removes_the_page(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = DynamicDictionaryLearning("test_convnext", dubai.SPEC.num_classes, width=32, head="conv")
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: describe(net, dubai.SPEC)}, tmp_path / "conv.ckpt")
    words = ["-w", str(tmp_path / "conv.ckpt"), "-o", str(tmp_path / "out")]
    assert run_main(test_dubai.main, [*words, "--report"]) == 0
    content = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    told = content.sections["dictionary-title"]
    assert "This network (DynamicDictionaryLearning) has no dictionary." in told
    assert set(content.rows) == {"classes-caption", "confusion-caption", "each-caption"}
    masks = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert run_main(test_dubai.main, words) == 0
    assert not (tmp_path / "out" / "report.html").exists()
    assert run_main(test_dubai.main, [*words, "--report", "--resume"]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")} == masks
    assert (tmp_path / "out" / "report.html").exists()


def repeated(folder: Path, number: int) -> tuple[SegmentationDataset, Masks, Tally]:
    """One large picture that compresses badly, `number` times over under names of its own, and its masks."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (175, 300, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((1200, 700), Image.Resampling.BICUBIC))
    labels = rng.integers(0, dubai.SPEC.num_classes, (175, 300)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    folder.mkdir()
    write_png(folder / "image.png", image)
    write_png(folder / "labels.png", labels)
    pairs = [Pair(folder / "image.png", folder / "labels.png", f"image {place}") for place in range(number)]
    dataset = SegmentationDataset(dubai.SPEC, lambda: pairs, read_mask=read_index_mask)
    masks, tally = Masks(folder / "masks", dubai.SPEC), Tally(dubai.SPEC, [pair.name for pair in pairs])
    prediction = np.ascontiguousarray(labels[::-1, ::-1])
    for pair in pairs:
        masks.path(pair.name).parent.mkdir(parents=True, exist_ok=True)
    write_png(masks.path("image 0"), prediction)
    tally.add("image 0", prediction, labels)
    for pair in pairs[1:]:
        masks.path(pair.name).hardlink_to(masks.path("image 0"))
    tally._counts[:] = tally._counts[0]
    tally._counted[:] = True
    return dataset, masks, tally


def test_a_page_of_a_hundred_images_is_below_ten_megabytes_and_hardly_larger_than_one_of_twelve(tmp_path: Path) -> None:
    net = DynamicDictionaryLearning("test_convnext", dubai.SPEC.num_classes, width=32, stages=1).eval()
    sizes = []
    for number in (12, 100):
        dataset, masks, tally = repeated(tmp_path / str(number), number)
        path = page.write(dataset, masks, tally.scores(), net, {"command": "test"}, window=(64, 64))
        sizes.append(path.stat().st_size)
    assert sizes[1] < 10 * MEGABYTE
    assert sizes[1] - sizes[0] < 0.1 * MEGABYTE


def test_labels_that_are_all_ignored_leave_dashes(tmp_path: Path) -> None:
    net = DynamicDictionaryLearning("test_convnext", dubai.SPEC.num_classes, width=32, stages=1).eval()
    dataset, masks, _ = repeated(tmp_path / "ignored", 3)
    nothing = np.full((700, 1200), dubai.SPEC.ignore_index, np.uint8)
    write_png(tmp_path / "ignored" / "labels.png", nothing)
    tally = Tally(dubai.SPEC, [pair.name for pair in dataset.pairs])
    for pair in dataset.pairs:
        tally.add(pair.name, np.zeros_like(nothing), nothing)
    text = page.write(dataset, masks, tally.scores(), net, {"command": "test"}, window=(64, 64)).read_text()
    content = Page(text)
    assert content.rows["each-caption"][1:] == [[pair.name, "-", "-", "-", "0"] for pair in dataset.pairs]
    shown = text.split("<main>")[1].split("<script>")[0]
    assert "nan" not in re.sub(r"data:image/[^\"]+", "", shown).lower()
    assert len(content.pictures()) == 4 * 3 + 1 + 6 + 6


def test_the_record_of_a_run_is_told_in_words(run: Run) -> None:
    record = json.loads((run.folder / "run.json").read_text())
    told = Page(run.page).sections["run-title"]
    assert f"mode {record['views']['mode']}, number {record['views']['number']}" in re.sub(r"\s+", " ", told)


def test_texts_stand_out_from_every_ground() -> None:
    """WCAG 2.1 AA asks for a contrast of 4.5; cells of matrices mix up to 45 % of a colour into the paper."""
    style = (Path(page.__file__).parent / "templates" / "report.css").read_text()
    assert style.count("calc(45% * var(--share))") == 2
    schemes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(schemes) == 2

    def lightness(colour: np.ndarray) -> float:
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return float(linear @ np.array([0.2126, 0.7152, 0.0722]))

    for scheme in schemes:
        found = {
            name: np.array(list(bytes.fromhex(code))) / 255 for name, code in re.findall(r"--(\w+): #(\w{6})", scheme)
        }
        grounds = {"paper": found["paper"]}
        grounds |= {name: 0.45 * found[name] + 0.55 * found["paper"] for name in ("accent", "other")}
        for text, ground in [("quiet", "paper"), ("link", "paper"), *(("ink", name) for name in grounds)]:
            low, high = sorted((lightness(found[text]), lightness(grounds[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
        for mark in ("accent", "other"):  # bars and lines
            low, high = sorted((lightness(found[mark]), lightness(found["paper"])))
            assert (high + 0.05) / (low + 0.05) >= 3, mark

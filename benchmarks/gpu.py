"""Tests and measurements on one CUDA card, in at most nine minutes and without network.

    bash benchmarks/gpu.sh --output report                     everything that fits into nine minutes
    bash benchmarks/gpu.sh --output second --stages compiled   what did not
    bash benchmarks/gpu.sh --wheels wheels                     installs packages that are missing from a folder
    bash benchmarks/gpu.sh --smoke                             the same on a CPU, with tiny sizes

Each stage is a process of its own with a time limit; one that fails or takes too long costs no other its result.
`gpu.json` and `gpu.md` in the output folder are written anew after each, beside its log. Exit code 0 if all passed.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODES = {
    "bf16": ("--precision", "bf16-mixed"),
    "TF32": ("--matmul", "high"),
    "float32": (),
    "fp16": ("--precision", "16-mixed"),
}
"""Options of benchmarks/model.py, the most useful first: the last may find no time."""
STEPS = ("evaluation", "training")
NETWORK = ("--backbone", "convnext_base", "--size", "512", "--batch", "8")
TINY = ("--backbone", "test_convnext", "--size", "32", "--batch", "2", "--stages", "1")
TINY_CONFIG = ("backbone=test_convnext", "pretrained=False", "stages=1", "crop=32", "max_epoch=1", "num_workers=0",
               "train_batch_size=2", "val_batch_size=1", "accelerator=cpu")  # fmt: skip
MACHINE = """
import json, torch
card = torch.cuda.is_available()
print(json.dumps({
    "card": torch.cuda.get_device_name() if card else None,
    "memory, GB": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if card else None,
    "PyTorch": torch.__version__, "CUDA": torch.version.cuda if card else None,
    "cuDNN": torch.backends.cudnn.version() if card else None,
}))
"""
DRAW = """import pathlib, sys; from tests.drawn.folders import write_vaihingen
write_vaihingen(pathlib.Path(sys.argv[1]), size=64, train=6, validation=2, test=2)"""


@dataclass(frozen=True)
class Session:
    """What all stages share.

    Attributes:
        output: folder of the report, of logs and of what stages leave.
        smoke: tiny, on the CPU.
        until: time.monotonic() at which everything ends.
    """

    output: Path
    smoke: bool
    until: float

    def python(self, *words: object, until: float, log: Path, folder: Path = ROOT) -> None:
        """Run Python; its output goes to the log.

        Raises:
            subprocess.CalledProcessError: its exit code is not 0.
            subprocess.TimeoutExpired: it was still running at `until` and was ended, with all that it had started.
        """
        environment = os.environ | {"D2LS_DATA": str(self.output / "data"), "PYTHONPATH": str(ROOT)}
        if self.smoke:
            environment |= {"D2LS_GPU_SMOKE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, *map(str, words)]
        with log.open("a") as stream:
            stream.write(f"$ {' '.join(command)}\n")
            stream.flush()
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=stream, stderr=stream, start_new_session=True
            )
            try:
                code = process.wait(max(0, until - time.monotonic()))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # readers of data too
                process.wait()
        if code:
            raise subprocess.CalledProcessError(code, command)


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    Attributes:
        seconds: its time limit.
        run: does the work until a time, with a log, and adds its figures to a dict as they come.
    """

    seconds: float
    run: Callable[[Session, float, Path, dict[str, Any]], None]


def tests(session: Session, until: float, log: Path, figures: dict[str, Any]) -> None:
    """`pytest -m gpu`; without its compiled cases in a smoke run, where the test suite has them."""
    words = ("-k", "not compiled") if session.smoke else ()
    try:
        command = ("-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider", *words)
        session.python(*command, until=until, log=log)
    finally:
        counts = re.findall(r"(\d+) (passed|failed|errors?|deselected|skipped)", log.read_text())
        figures.update({name: int(number) for number, name in counts})


def model(session: Session, until: float, log: Path, figures: dict[str, Any], *, compiled: bool) -> None:
    """Steps of backbone, network and transcription in every precision: one process, a file for each result."""
    folder = log.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
    try:
        session.python(__file__, "--steps", folder, *["--compiled"] * compiled, until=until, log=log)
    finally:
        for name in (f"{mode} {step}" for mode in MODES for step in STEPS):
            if (path := folder / f"{name}.json").is_file():
                figures[name] = json.loads(path.read_text())


def measure_steps(folder: Path, smoke: bool, compiled: bool) -> int:
    """What the process of `model` does; the number of modes that failed."""
    import torch  # noqa: PLC0415  (this program's other parts work without it)

    from benchmarks import model as program  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    backend = ("--compile", "eager" if smoke else "inductor") if compiled else ()
    size = (*TINY, "--repeats", "1", "--times-only") if smoke else (*NETWORK, "--repeats", "10", "--warmup", "3")
    failed = 0
    for mode, words in list(MODES.items())[: 2 if smoke and compiled else None]:
        for step in STEPS:
            try:
                command = [*size, *words, *backend, "--steps", step, "--json", str(folder / f"{mode} {step}.json")]
                failed += bool(program.main(command))
            except Exception as error:  # the next may still work
                print(f"{mode}, {step}: {type(error).__name__}: {error}", flush=True)
                failed += 1
            torch.compiler.reset()
            if not smoke:
                torch.cuda.empty_cache()
    return failed


def program(name: str, large: tuple[str, ...], small: tuple[str, ...]) -> Callable[..., None]:
    """A stage that runs one of the other benchmarks once, with options for a card or for a smoke run."""

    def run(session: Session, until: float, log: Path, figures: dict[str, Any]) -> None:
        path = log.with_suffix(".json")
        words = small if session.smoke else large
        session.python(ROOT / "benchmarks" / f"{name}.py", *words, "--json", path, until=until, log=log)
        figures["result"] = json.loads(path.read_text())

    return run


def demo(session: Session, until: float, log: Path, figures: dict[str, Any]) -> None:
    """Train the demo, then test it with `-t d4`; a smoke run trains a tiny network on a few scenes."""
    work = session.output / "demo"
    work.mkdir(exist_ok=True)
    name, words = ("vaihingen", TINY_CONFIG) if session.smoke else ("demo", ("num_workers=auto",))
    config = ROOT / "config" / name / "d2ls.py"
    run = partial(session.python, until=until, log=log, folder=work)
    if session.smoke:
        run("-c", DRAW, session.output / "data")
    started = time.monotonic()
    run(ROOT / "train.py", "-c", config, *words)
    figures["training, s"] = round(time.monotonic() - started, 1)
    best = re.findall(r"best (\w+): ([\d.]+)", log.read_text())
    figures.update({f"best {score}": float(value) for score, value in best})
    started = time.monotonic()
    run(ROOT / "test_vaihingen.py", "-c", config, "-o", work / "masks", "-t", "d4", *words)
    figures["test with d4, s"] = round(time.monotonic() - started, 1)
    scores = json.loads((work / "masks" / "metrics.json").read_text())
    figures.update({f"test {score}": round(scores[score], 4) for score in ("mIoU", "F1", "OA")})


WORKERS = str(min(8, os.cpu_count() or 1))
STAGES = {
    "tests": Stage(150, tests),
    "eager": Stage(120, partial(model, compiled=False)),
    "demo": Stage(110, demo),
    "predict": Stage(60, program(
        "predict",
        ("--device", "cuda", "--precision", "bf16-mixed", "--backbone", "convnext_base", "--width", "256",
         "--images", "40", "4", "--tta-batch", "8"),
        ("--device", "cpu", "--backbone", "test_convnext", "--stages", "1", "--width", "32", "--size", "64",
         "--images", "2", "1", "--tta-batch", "8"),
    )),
    "loader": Stage(60, program(
        "loader",
        ("--workers", WORKERS, "--tiles", "4", "--samples", "256", "--batch", "8", "--repeats", "2"),
        ("--workers", "1", "--recipes", "loveda", "--tiles", "1", "--samples", "4", "--batch", "2", "--repeats", "1"),
    )),
    "kernels": Stage(40, program("model", ("--kernels", *NETWORK), ("--kernels", *TINY))),
    "compiled": Stage(500, partial(model, compiled=True)),
}  # fmt: skip
"""In order; the last takes the time that is left."""


def describe_machine(missing: list[str]) -> dict[str, Any]:
    """Card, driver and versions."""
    known = json.loads(subprocess.check_output([sys.executable, "-c", MACHINE], text=True))
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    for name, command in {"driver": query, "commit": ["git", "-C", str(ROOT), "rev-parse", "HEAD"]}.items():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            lines = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()
            known[name] = lines[0] if lines else None
    known |= {"Python": sys.version.split()[0], "CPU cores": os.cpu_count(), "missing packages": missing}
    return known | {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


def missing_packages(wheels: Path | None) -> list[str]:
    """Required packages that are not there, after those have been installed that the folder of wheels has."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    wanted = {re.split(r"[><=]", line)[0]: line for line in (*lines, "pytest", "hypothesis") if line}

    def absent() -> Iterator[str]:
        for name in wanted:
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                yield name

    for name in list(absent()) if wheels else ():
        install = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels), wanted[name]]
        subprocess.run(install, check=False)
    return list(absent())


def run_stage(session: Session, name: str) -> dict[str, Any]:
    """Outcome, seconds and figures of a stage."""
    log = session.output / f"{name}.log"
    log.write_text("")
    figures: dict[str, Any] = {}
    started = time.monotonic()
    until = min(started + STAGES[name].seconds * (3 if session.smoke else 1), session.until)
    print(f"{name}: at most {max(0, until - started):.0f} s", flush=True)
    try:
        STAGES[name].run(session, until, log, figures)
        outcome = "passed"
    except subprocess.TimeoutExpired:
        outcome = "out of time"
    except subprocess.CalledProcessError as error:
        outcome = f"exit code {error.returncode}"
    except Exception as error:  # a result that cannot be read must not end the run
        outcome = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - started, 1)
    print(f"{name}: {outcome}, {seconds} s", flush=True)
    return {"outcome": outcome, "seconds": seconds, "figures": figures}


def table(rows: list[list[Any]]) -> str:
    """A Markdown table of a heading and rows."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def steps_table(stages: dict[str, Any], batch: int) -> list[list[Any]]:
    """Times, images a second and memory of each step in each mode."""
    rows: list[list[Any]] = [["step", "precision", "", "contender", "ms", "images/s", "over backbone", "GB added"]]
    for kind in ("eager", "compiled"):
        for name, found in stages.get(kind, {"figures": {}})["figures"].items():
            mode, step = name.split()
            memory = found.get("memory", {}).get(step, {})
            for contender, seconds in found[step].items():
                over = seconds / found[step]["backbone"] - 1
                size = f"{memory[contender] / 1e9:.2f}" if contender in memory else ""
                figures = [f"{1e3 * seconds:.1f}", f"{batch / seconds:.1f}", f"{over:.2f}", size]
                rows.append([step, mode, kind, contender, *figures])
    return rows


def write_report(output: Path, report: dict[str, Any]) -> None:
    """`gpu.json` and `gpu.md`."""
    (output / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    stages = report["stages"]
    title = (
        "a CPU, tiny sizes: these figures say nothing about a card" if report["smoke"] else report["machine"]["card"]
    )
    parts = [f"# {title}\n", table([["", ""], *map(list, report["machine"].items())])]
    parts.append(
        table([["stage", "outcome", "seconds"], *([n, s["outcome"], s["seconds"]] for n, s in stages.items())])
    )
    words = TINY if report["smoke"] else NETWORK
    steps = steps_table(stages, int(words[words.index("--batch") + 1]))
    if len(steps) > 1:
        parts += [f"Steps of `benchmarks/model.py {' '.join(words)}`:\n", table(steps)]
    for name in ("tests", "demo"):
        if found := stages.get(name, {}).get("figures"):
            parts += [f"{name}:\n", table([["", ""], *map(list, found.items())])]
    for name in ("predict", "loader", "kernels"):
        result = stages.get(name, {}).get("figures", {}).get("result")
        if result is not None:
            if name == "kernels":
                result = {f"{step}, {who}": row for step, found in result.items() for who, row in found.items()}
            rows = result if isinstance(result, list) else [{"": key, **value} for key, value in result.items()]
            text = [[f"{x:.3g}" if isinstance(x, float) else x for x in row.values()] for row in rows]
            parts += [f"{name}:\n", table([list(rows[0]), *text])]
    (output / "gpu.md").write_text("\n".join(parts))


def main() -> int:
    """Read the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "fig_results" / "gpu", metavar="DIR")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), help="default: all")
    parser.add_argument("--minutes", type=float, default=9, help="after which everything ends (default 9)")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install missing packages from here")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, without a limit of nine minutes")
    parser.add_argument("--steps", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        return measure_steps(options.steps, "D2LS_GPU_SMOKE" in os.environ, options.compiled)
    missing = missing_packages(options.wheels)
    if missing:
        print(f"packages that are missing (--wheels DIR installs them from a folder): {', '.join(missing)}", flush=True)
    machine = describe_machine(missing)
    if machine["card"] is None and not options.smoke:
        print("error: PyTorch finds no CUDA card. --smoke runs everything on the CPU, tiny.", file=sys.stderr)
        return 2
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    limit = float("inf") if options.smoke else 60 * options.minutes
    session = Session(output, options.smoke, time.monotonic() + limit)
    report: dict[str, Any] = {"smoke": options.smoke, "machine": machine, "stages": {}}
    for name in options.stages:
        report["stages"][name] = run_stage(session, name)
        write_report(output, report)
    print(output / "gpu.md")
    return int(any(stage["outcome"] != "passed" for stage in report["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())

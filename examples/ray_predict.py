"""Segment many rasters on a cluster with Ray Data: actors hold the network, each takes the next raster.

    pip install "d2ls[ray]"
    python examples/ray_predict.py --actors 8 --gpus-per-actor 1 -w model.ckpt -i scenes/ -o maps --resume

Options that are not named here are those of predict.py. Rasters, weights and the folder of the maps lie where every
machine of the cluster sees them under the same path. A raster that cannot be used is told at the end.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from d2ls.cli.common import run_main
from d2ls.cli.predict import parser
from d2ls.cli.predict_run import load_job, rasters_of
from d2ls.errors import DataError


class Predictor:
    """An actor: its network is loaded once."""

    def __init__(self, options: argparse.Namespace, command: list[str]) -> None:
        self.job = load_job(options, command)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Segment the rasters of "path"; gives what is wrong with each, or nothing."""
        return {"problem": np.array([self.problem(Path(path)) for path in batch["path"]], object)}

    def problem(self, path: Path) -> str:
        """Segment a raster; gives what is wrong with it, or nothing."""
        try:
            self.job.predict(path)
        except DataError as problem:
            return str(problem)
        return ""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and predict; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--actors", type=int, default=1)
    own.add_argument("--gpus-per-actor", type=float, default=0)
    cluster, rest = own.parse_known_args(words)
    options = parser().parse_args([*rest, "--shard", "1/1"])
    for name in ("weights", "input", "output"):
        setattr(options, name, getattr(options, name).resolve())  # actors have another working folder
    rasters = rasters_of(options)
    dataset = ray.data.from_items([{"path": str(path)} for path in rasters], override_num_blocks=len(rasters))
    found = dataset.map_batches(
        Predictor,
        fn_constructor_args=(options, ["ray_predict.py", *words]),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=cluster.actors),
        num_gpus=cluster.gpus_per_actor,
    )
    problems = [row["problem"] for row in found.iter_rows() if row["problem"]]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(rasters) - len(problems)} of {len(rasters)} rasters: maps in {options.output}")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Nothing goes to the network unless pretrained weights were asked for."""

import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import write_config

ROOT = Path(__file__).parents[1]

CODE = """
import importlib, os, pkgutil, runpy, socket, sys

EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")

def watch(event, arguments):
    if event in EVENTS and getattr(arguments[0], "family", None) != socket.AF_UNIX:
        os.write(2, f"network: {event} {arguments}".encode())
        os._exit(9)

sys.addaudithook(watch)  # holds in the processes of data loaders too: they are forked
root = sys.argv[1]
sys.path.insert(0, root)

def script(name, *words):
    sys.argv = [name, *words]
    try:
        runpy.run_path(f"{root}/{name}", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, (name, end.code)

import d2ls
for module in pkgutil.walk_packages(d2ls.__path__, "d2ls."):
    importlib.import_module(module.name)
assert "albumentations" not in sys.modules
script("train.py", "-c", "tiny.py", "--check")
script("train.py", "-c", "tiny.py", "max_epoch=1")
assert "albumentations" in sys.modules  # which asks for its newest version unless told otherwise
script("test_vaihingen.py", "-c", "tiny.py", "-o", "out", "-t", "lr")
script("tools/export_weights.py", "model_weights/vaihingen/tiny/last.ckpt", "a.safetensors")
script("tools/check_data.py", "vaihingen", "--workers", "1")
print("done")
"""


def test_training_testing_and_tools_open_no_socket(tmp_path: Path, tiny_data: Path) -> None:
    write_config(tmp_path, ("crop=crop)", "crop=crop, sharpen=1.0)"), ("num_workers = 0", "num_workers = 1"))
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    environment |= {"D2LS_DATA": str(tiny_data), "HF_HOME": "nowhere", "TORCH_HOME": "nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")

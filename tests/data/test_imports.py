import subprocess
import sys

CODE = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "os.listdir" or event == "os.scandir" else None)
sys.addaudithook(lambda event, args: sys.exit(f"network: {args}") if event == "socket.connect" else None)
from d2ls.data import loaders as loading
from d2ls.data.sets import cloud, dubai, grass, loveda, potsdam, uavid, vaihingen
for module in (cloud, dubai, grass, loveda, potsdam, uavid, vaihingen):
    for protocol in ("strict", "published"):
        loading.training_loader(module.train(protocol), 2)
        loading.evaluation_loader(module.val(protocol))
    loading.evaluation_loader(module.test())
assert not [path for path in opened if "/nowhere" in str(path)], opened
assert "albumentations" not in sys.modules
"""


def test_importing_and_constructing_reads_no_data_and_asks_no_network() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"D2LS_DATA": "/nowhere", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_changing_colours_asks_no_network() -> None:
    code = """
import sys
network = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: sys.exit(f"network: {args}") if event in network else None)
import numpy as np
from d2ls.data.augment import Augmentation, random_colours
random_colours(np.zeros((8, 8, 3), np.uint8), Augmentation(sharpen=1.0), np.random.default_rng(0))
"""
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The tests of a card work: they run on the CPU with tiny sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "chosen", ["not compiled and not test_networks", pytest.param("compiled or test_networks", marks=pytest.mark.slow)]
)
def test_the_tests_of_a_card_pass_on_the_cpu(chosen: str) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", chosen, "tests/gpu", "-p", "no:cacheprovider"]
    environment, root = os.environ | {"D2LS_GPU_SMOKE": "1"}, Path(__file__).parents[1]
    done = subprocess.run(words, check=False, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "failed" not in done.stdout

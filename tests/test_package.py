"""The face of the library: exports, console scripts, and what importing and --help cost."""

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import d2ls

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ["predict.py", *(path.name for path in sorted(ROOT.glob("test_*.py")))]
FEW_IMPORTS = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
assert "torch" not in sys.modules, "torch was imported"
"""


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_export_is_what_its_module_defines() -> None:
    assert d2ls.__version__.count(".") == 2
    for name, module in d2ls._EXPORTS.items():
        assert getattr(d2ls, name) is getattr(import_module(module), name)
    assert set(d2ls.__all__) <= set(dir(d2ls))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = d2ls.no_such_name


def test_type_checkers_see_the_same_exports() -> None:
    stub = ast.parse((ROOT / "d2ls" / "__init__.pyi").read_text())
    listed = {alias.name: node.module for node in stub.body for alias in node.names}
    assert listed == {**d2ls._EXPORTS, "__version__": "d2ls.version"}


def test_importing_the_package_imports_no_torch() -> None:
    done = python("-c", "import sys, d2ls; dir(d2ls); assert 'torch' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_no_torch(script: str) -> None:
    done = python("-c", FEW_IMPORTS, script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout


def test_console_scripts_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for entry in scripts.values():
        module, _, function = entry.partition(":")
        assert callable(getattr(import_module(module), function))
    command = "import sys; from d2ls.cli.entry import test; sys.argv = ['d2ls-test', *sys.argv[1:]]; sys.exit(test())"
    assert "usage" in python("-c", command, "--help").stdout
    assert "--patch-height" in python("-c", command, "uavid", "--help").stdout
    unknown = python("-c", command, "atlantis", "-w", "x.ckpt", "-o", "out")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: 'atlantis': ")

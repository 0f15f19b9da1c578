"""Reader of config files: plain Python that builds network, loss, data sets, loaders and optimiser, beside settings.

A top-level name can be given another value from outside before the file runs, so everything computed from it follows.
A file with `base = "other.py"` is that other file with its own assignments in the place of the same names.
"""

import ast
import difflib
import hashlib
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from d2ls.data.loaders import begins_anywhere
from d2ls.errors import ConfigError, D2LSError
from d2ls.models import deferred_weights
from d2ls.settings import SETTINGS, check_contradictions, check_type

_OBJECTS: dict[str, tuple[type, ...]] = {
    "net": (nn.Module,),
    "loss": (nn.Module,),
    "train_loader": (DataLoader,),
    "val_loader": (DataLoader,),
    "optimizer": (Optimizer,),
    "lr_scheduler": (LRScheduler, types.NoneType),
}
"""Types of the objects that a config builds."""
_MISTAKEN = {"logger": "loggers", "callback": "callbacks", "epochs": "max_epoch", "batch_size": "train_batch_size",
             "learning_rate": "lr", "scheduler": "lr_scheduler"}  # fmt: skip
"""Names of other tools, and the settings that stand for them."""
_SIMILAR = 0.75  # share of letters from which a name is taken for a setting's


class Settings:
    """The names of a config file as attributes, with defaults for the settings that it leaves out.

    Attributes:
        path: the file that was read.
        overrides: values given from outside.
        source: text of the config as it ran, overrides included.
        unused: names of overrides, and of plain values in the file, that change nothing since nothing reads them.
    """

    def __init__(
        self, path: Path, overrides: dict[str, Any], source: str, names: Mapping[str, Any], unused: Sequence[str] = ()
    ) -> None:
        self.path, self.overrides, self.source, self.unused = path, overrides, source, tuple(unused)
        self._names = {name: setting.default for name, setting in SETTINGS.items() if not setting.required}
        self._names |= names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._names[name]
        except KeyError:
            raise AttributeError(f"{self.path} has no setting {name!r}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._names


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a config file.

    Pretrained weights are not loaded yet (see `d2ls.models.deferred_weights`), and data sets do not look at their
    folders, so a config can be read without network and data. Initial weights depend on the setting `seed` alone.

    Args:
        path: a Python file.
        overrides: values by top-level name, in the place of those in the file.

    Raises:
        ConfigError: no such file, an error in it, an unknown name, a wrong type, or settings that contradict another.
    """
    try:
        return _load(Path(path), dict(overrides or {}))
    except RecursionError as error:
        raise ConfigError(f"{path}: an expression in it is nested too deep.") from error


def _load(path: Path, overrides: dict[str, Any]) -> Settings:
    tree = _read(path)
    _check_overrides(path, tree, overrides)
    tree = ast.fix_missing_locations(_override(tree, overrides))
    source = ast.unparse(tree)
    names = _run(path, tree, source)
    for name, value in names.items():
        if name in SETTINGS:
            check_type(name, value, str(path))
        if name in _OBJECTS and not isinstance(value, _OBJECTS[name]):
            expected = " or ".join(kind.__name__ for kind in _OBJECTS[name])
            raise ConfigError(f"{path}: {name}={value!r:.60}: expected {expected}, found {type(value).__name__}.")
    settings = Settings(path, overrides, source, names, _unused(path, tree, overrides))
    missing = [name for name, setting in SETTINGS.items() if setting.required and name not in settings]
    if missing:
        raise ConfigError(f"{path}: no {', '.join(missing)}. A config must set these names; see config/ for examples.")
    check_contradictions(settings)
    if settings.save_every_n_steps and not begins_anywhere(settings.train_loader):
        raise ConfigError(
            f"{path}: save_every_n_steps={settings.save_every_n_steps}: train_loader cannot begin inside an epoch; "
            "make it with d2ls.data.loaders.training_loader."
        )
    return settings


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Settings from a command line: `max_epoch=2 lr=3e-4 backbone=convnext_tiny`.

    Values are read as Python literals; values that are not literals (`convnext_tiny`) are text.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"{word!r}: expected name=value, such as max_epoch=2.")
        if name in overrides:
            raise ConfigError(f"{name} is given twice: {overrides[name]!r} and {text!r}.")
        try:
            overrides[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            overrides[name] = text
    return overrides


def _read(path: Path, above: tuple[Path, ...] = ()) -> ast.Module:
    """The syntax tree of a config, its base's statements included; each statement knows its file as `origin`."""
    if not path.is_file():
        raise ConfigError(
            f"{above[-1]}: its base {path} does not exist."
            if above
            else f"no config file {path}. Those that come with the project are config/<data set>/d2ls.py."
        )
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path} is not Python: {error or type(error).__name__}") from error
    tree.body = [part for node in tree.body for part in _split(node)]
    for node in tree.body:
        node.origin = str(path)  # type: ignore[attr-defined]
    if not any(_target(node) == "base" for node in tree.body):
        return tree
    base = _literals(tree).get("base")
    if not isinstance(base, str):
        raise ConfigError(f'{path}: base must be the name of another config file as plain text, such as "d2ls.py".')
    chain = (*above, path)
    parent = path.parent / base
    if any(parent.resolve() == file.resolve() for file in chain):
        raise ConfigError(f"{path}: base={base!r} leads in a circle: {' -> '.join(map(str, (*chain, parent)))}.")
    return _merge(_read(parent, chain), [node for node in tree.body if _target(node) != "base"], path)


def _merge(tree: ast.Module, own: list[ast.stmt], path: Path) -> ast.Module:
    """The base's statements with a config's `own` ones in the place of those that set the same names.

    Imports and names that the base does not have come behind the base's first imports: the other values may use them.
    """
    for node in own:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if _target(node) is None and not isinstance(node, ast.Import | ast.ImportFrom) and not is_text:
            raise ConfigError(
                f"{path}, line {node.lineno}: a config with a base may hold imports, functions, classes and plain "
                f"assignments only, found: {ast.unparse(node).splitlines()[0]}"
            )
    known = {_target(node) for node in tree.body} - {None}
    named = {_target(node): node for node in own if _target(node) in known}
    new = [node for node in own if _target(node) not in known and not isinstance(node, ast.Expr)]
    start = _first_statement(tree)
    rest = [named.get(_target(node), node) for node in tree.body[start:]]
    return ast.Module(tree.body[:start] + new + rest, tree.type_ignores)


def _first_statement(tree: ast.Module) -> int:
    """Index of the first statement behind the text and the imports that a file begins with."""
    leading = ast.Import | ast.ImportFrom | ast.Expr
    return next((at for at, node in enumerate(tree.body) if not isinstance(node, leading)), len(tree.body))


def _split(node: ast.stmt) -> list[ast.stmt]:
    """`a = b = 1` and `a, b = 1, 2` as one assignment a name; other statements as they are."""
    # `a = b = f()` means one object: only literals may be written twice.
    if not isinstance(node, ast.Assign) or (len(node.targets) > 1 and not _is_literal(node.value)):
        return [node]
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs += zip(target.elts, node.value.elts, strict=False)
        else:
            pairs.append((target, node.value))
    if len(pairs) == 1 or not all(isinstance(target, ast.Name) for target, _ in pairs):
        return [node]
    return [ast.copy_location(ast.Assign([target], value), node) for target, value in pairs]


def _target(node: ast.stmt) -> str | None:
    """The name that a plain top-level assignment, a function or a class sets."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return node.target.id
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def _override(tree: ast.Module, overrides: Mapping[str, Any]) -> ast.Module:
    """The file with other values behind the given names; a name that it does not set is set before all others."""
    values = {name: ast.parse(repr(value), mode="eval").body for name, value in overrides.items()}
    for node in tree.body:
        if (name := _target(node)) in values and isinstance(node, ast.Assign | ast.AnnAssign):
            node.value = ast.copy_location(values[name], node)
    known, start = {_target(node) for node in tree.body}, _first_statement(tree)
    added = [ast.Assign([ast.Name(name, ast.Store())], value) for name, value in values.items() if name not in known]
    return ast.Module([*tree.body[:start], *added, *tree.body[start:]], tree.type_ignores)


def _literals(tree: ast.Module) -> dict[str, Any]:
    """The top-level names that are set to literals, and their values."""
    found = {}
    for node in tree.body:
        name = _target(node)
        if name is not None and isinstance(node, ast.Assign | ast.AnnAssign) and node.value and _is_literal(node.value):
            found[name] = ast.literal_eval(node.value)
    return found


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


def _check_overrides(path: Path, tree: ast.Module, overrides: Mapping[str, Any]) -> None:
    """Names must be settings or literals of the file, and values of their type."""
    literals, assigned = _literals(tree), {_target(node) for node in tree.body}
    # What only a config itself acts on would change nothing in one that does not have it.
    settings = {n for n, setting in SETTINGS.items() if setting.simple and (n in assigned or not setting.config_only)}
    valid = sorted(settings | set(literals) - {"base"})
    for name, value in overrides.items():
        if name not in valid:
            hint = "".join(f" Did you mean {close}?" for close in difflib.get_close_matches(name, valid, n=1))
            listed = ", ".join(valid)
            raise ConfigError(f"{name}: no such setting in {path}.{hint} Settings that can be given: {listed}.")
        check_type(name, value, "given from outside", like=literals.get(name))
        if not _is_literal(ast.parse(repr(value), mode="eval").body):
            raise ConfigError(f"{name}={value!r} (given from outside): expected a plain, finite value.")


def _unused(path: Path, tree: ast.Module, overrides: Mapping[str, Any]) -> list[str]:
    """Overrides and plain values of the file that nothing reads; one named like a setting is refused as mistaken."""
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    by_training = {name for name, setting in SETTINGS.items() if not setting.config_only}
    nothing_reads = {name for name in (*overrides, *_literals(tree)) if name not in read | by_training}
    origins = {_target(node): getattr(node, "origin", None) for node in tree.body}
    mistaken = [name for name in origins if name in nothing_reads - SETTINGS.keys() and not name.startswith("_")]
    mistaken += [name for name in _MISTAKEN if name in origins.keys() - read - SETTINGS.keys()]
    for name in mistaken:
        if close := _MISTAKEN.get(name) or next(iter(difflib.get_close_matches(name, SETTINGS, 1, _SIMILAR)), None):
            raise ConfigError(f"{path}: nothing reads {name}. Did you mean {close}? Use that name, or remove this one.")
    own = [name for name in mistaken if origins[name] == str(path)]  # a base has values for other configs, too
    return list(dict.fromkeys([name for name in overrides if name in nothing_reads] + own))


def _run(path: Path, tree: ast.Module, source: str) -> dict[str, Any]:
    """Execute a config as a module of its own and give its public names."""
    module = types.ModuleType(f"d2ls_config_{hashlib.sha256(f'{path.resolve()}{source}'.encode()).hexdigest()[:12]}")
    module.__file__ = str(path)
    names = vars(module)
    seed = _literals(tree).get("seed", SETTINGS["seed"].default)
    check_type("seed", seed, str(path))
    files = {str(getattr(node, "origin", path)) for node in tree.body}
    sys.modules[module.__name__] = module  # classes look their module up while they are made
    try:
        with deferred_weights(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for node in tree.body:
                exec(compile(ast.Module([node], []), getattr(node, "origin", str(path)), "exec"), names)
    except (Exception, SystemExit) as error:
        frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
        where = next((f"{file}, line {line}" for file, line in frames if file in files), str(path))
        kind = "" if isinstance(error, D2LSError) else f"{type(error).__name__}: "
        raise ConfigError(f"{where}: {kind}{error}") from error
    finally:
        del sys.modules[module.__name__]
    return {n: v for n, v in names.items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}

"""Config files: plain Python that builds network, loss, data sets, loaders and optimiser, and settings beside them.

A top-level name can be given another value from outside before the file runs, so everything computed from it follows.
A file with `base = "other.py"` is that other file with its own assignments in the place of the same names.
"""

import ast
import difflib
import hashlib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from d2ls.errors import ConfigError
from d2ls.models import deferred_weights
from d2ls.settings import SETTINGS, check_contradictions, check_type


class Settings:
    """The names of a config file as attributes, with defaults for the settings that it leaves out.

    Attributes:
        path: the file that was read.
        overrides: values given from outside.
        source: text of the config as it ran, overrides included.
    """

    def __init__(self, path: Path, overrides: Mapping[str, Any], source: str, names: Mapping[str, Any]) -> None:
        self.path, self.overrides, self.source = path, dict(overrides), source
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

    def values(self) -> dict[str, Any]:
        """The settings that are plain values, by name."""
        return {name: value for name, value in sorted(self._names.items()) if _is_plain(value)}


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
    path = Path(path)
    overrides = dict(overrides or {})
    tree = _read(path)
    _check_overrides(path, tree, overrides)
    values = {name: ast.parse(repr(value), mode="eval").body for name, value in overrides.items()}
    tree = ast.fix_missing_locations(_replace(tree, values))
    source = ast.unparse(tree)
    names = _run(path, tree, source, _literal(tree, "seed", SETTINGS["seed"].default))
    names |= {name: value for name, value in overrides.items() if name not in names}
    for name, value in names.items():
        if name in SETTINGS:
            check_type(name, value, str(path))
    settings = Settings(path, overrides, source, names)
    missing = [name for name, setting in SETTINGS.items() if setting.required and name not in settings]
    if missing:
        raise ConfigError(f"{path}: no {', '.join(missing)}. A config must set these names; see config/ for examples.")
    check_contradictions(settings)
    return settings


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Settings from a command line: `max_epoch=2 lr=3e-4 backbone=convnext_tiny`.

    Values are read as Python literals; what is none (`convnext_tiny`) is text.

    Raises:
        ConfigError: a word without `=`, or a name given twice.
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


def _read(path: Path) -> ast.Module:
    """The syntax tree of a config, its base's statements included."""
    if not path.is_file():
        raise ConfigError(f"no config file {path}. Those that come with the project are config/<data set>/d2ls.py.")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not Python: {error}") from error
    base = _literal(tree, "base", None)
    if base is None:
        return tree
    if not isinstance(base, str) or (path.parent / base).resolve() == path.resolve():
        raise ConfigError(f"{path}: base={base!r}; expected the name of another config file beside this one.")
    own = [node for node in _split_assignments(tree) if _target(node) != "base"]
    merged = _replace(
        _read(path.parent / base), {name: n.value for n in own if isinstance(n, ast.Assign) and (name := _target(n))}
    )
    known = {_target(node) for node in merged.body}
    # Imports, functions and new names come first: the replaced values may use them. Statements that are neither have no
    # place of their own in the base.
    if loose := [n for n in own if isinstance(n, ast.Expr) and not isinstance(n.value, ast.Constant)]:
        raise ConfigError(
            f"{path}, line {loose[0].lineno}: a config with a base may hold imports, functions and names only."
        )
    merged.body = [node for node in own if _target(node) is None or _target(node) not in known] + merged.body
    return merged


def _split_assignments(tree: ast.Module) -> list[ast.stmt]:
    """The statements of a file with `a = b = 1` and `a, b = 1, 2` as one assignment a name."""
    result: list[ast.stmt] = []
    for node in tree.body:
        single = _singles(node) if isinstance(node, ast.Assign) else None
        result += [node] if single is None else single
    return result


def _singles(node: ast.Assign) -> list[ast.stmt] | None:
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs += zip(target.elts, node.value.elts, strict=False)
        else:
            pairs.append((target, node.value))
    if len(pairs) == 1 or not all(isinstance(t, ast.Name) for t, _ in pairs):
        return None
    # `a = b = f()` means one object: only literals may be written twice.
    if len(node.targets) > 1 and not _is_literal(node.value):
        return None
    return [ast.copy_location(ast.Assign([target], value), node) for target, value in pairs]


def _target(node: ast.stmt) -> str | None:
    """The name that a plain top-level assignment sets."""
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return node.target.id
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def _replace(tree: ast.Module, values: Mapping[str, ast.expr]) -> ast.Module:
    """The file with other values behind the given names."""
    body = _split_assignments(tree)
    for node in body:
        if (name := _target(node)) and name in values and isinstance(node, ast.Assign | ast.AnnAssign):
            node.value = ast.copy_location(values[name], node)
    return ast.Module(body, tree.type_ignores)


def _literal(tree: ast.Module, name: str, default: Any) -> Any:
    """The value of a top-level name that is a literal."""
    values = [
        n.value for n in _split_assignments(tree) if _target(n) == name and isinstance(n, ast.Assign | ast.AnnAssign)
    ]
    return ast.literal_eval(values[-1]) if values and values[-1] is not None and _is_literal(values[-1]) else default


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _check_overrides(path: Path, tree: ast.Module, overrides: Mapping[str, Any]) -> None:
    """Names must be settings or literals of the file, and values of their type."""
    literals = {}
    for node in _split_assignments(tree):
        name = _target(node)
        if name is not None and isinstance(node, ast.Assign | ast.AnnAssign) and node.value and _is_literal(node.value):
            literals[name] = ast.literal_eval(node.value)
    settings = {name for name, setting in SETTINGS.items() if setting.simple}
    valid = sorted(settings | set(literals) - {"base"})
    for name, value in overrides.items():
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"{name}: no such setting in {path}.{hint} Settings that can be given: {', '.join(valid)}."
            )
        check_type(name, value, "given from outside", like=literals.get(name))


def _run(path: Path, tree: ast.Module, source: str, seed: int) -> dict[str, Any]:
    """Execute a config as a module of its own and give its public names."""
    module = types.ModuleType(f"d2ls_config_{hashlib.sha256(f'{path.resolve()}{source}'.encode()).hexdigest()[:12]}")
    module.__file__ = str(path)
    try:
        with deferred_weights(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            exec(compile(tree, str(path), "exec"), module.__dict__)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:
        line = next((f"line {e.tb_lineno}: " for e in _frames(error) if e.tb_frame.f_code.co_filename == str(path)), "")
        raise ConfigError(f"{path}: {line}{type(error).__name__}: {error}") from error
    return {n: v for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}


def _frames(error: BaseException) -> list[types.TracebackType]:
    frames, current = [], error.__traceback__
    while current is not None:
        frames.append(current)
        current = current.tb_next
    return frames

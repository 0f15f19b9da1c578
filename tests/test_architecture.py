"""The map of the package: which part may import which, and limits on the size of files and functions.

Read from the import lines themselves, those inside functions and of type checking included.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "d2ls"
LAYERS = (
    ("cli", "datasets"),
    ("compare",),
    ("training", "preparation", "report", "synthetic"),
    ("inference",),
    ("export", "config", "checkpoint", "data.sets"),
    ("data",),
    ("models", "losses", "metrics", "optim", "settings"),
    ("distributed", "memory", "errors", "version"),
)
"""Parts from the top to the bottom; a part imports parts of lower rows, or of its own row without a cycle."""
MOST_PARTS, MOST_LINES, MOST_FUNCTION_LINES, MOST_FILES_WITH_LOVEDA = 22, 350, 60, 3


@cache
def trees() -> dict[str, ast.Module]:
    """Syntax trees by the dotted name below `d2ls`; a package's own file has the package's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def part_of(module: str) -> str:
    """The part that a module belongs to: its folder, or itself at the top."""
    if module == "data.sets" or module.startswith("data.sets."):
        return "data.sets"
    return module.partition(".")[0]


def imported(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Modules below `d2ls` that a file imports, and the name taken from each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.removeprefix("d2ls."), None) for alias in node.names if alias.name[:5] == "d2ls.")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "d2ls":
            for alias in node.names:
                module = (node.module or "").removeprefix("d2ls").removeprefix(".")
                inner = f"{module}.{alias.name}" if module else alias.name
                yield (inner, None) if inner in trees() else (module, alias.name)


@cache
def graph() -> dict[str, set[str]]:
    """Parts and the parts they import."""
    result: dict[str, set[str]] = {}
    for name, tree in trees().items():
        if name:  # d2ls/__init__.py names its exports as text
            own = part_of(name)
            result.setdefault(own, set()).update(part_of(module) for module, _ in imported(tree))
            result[own].discard(own)
    return result


def test_the_package_itself_imports_only_its_version() -> None:
    assert {module for module, _ in imported(trees()[""])} == {"version"}
    assert not any(name == "" for tree in trees().values() for name, _ in imported(tree))


def test_there_are_few_parts_and_every_one_has_its_row() -> None:
    assert len(graph()) <= MOST_PARTS
    assert set(graph()) <= {part for row in LAYERS for part in row}


def test_imports_run_downwards_and_never_in_a_circle() -> None:
    rows = {part: row for row, parts in enumerate(LAYERS) for part in parts}
    upwards = {(part, other) for part, others in graph().items() for other in others if rows[other] < rows[part]}
    assert upwards == set()
    TopologicalSorter(graph()).prepare()  # raises CycleError


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {name: {module for module, _ in imported(tree)} - {name} for name, tree in trees().items() if name}
    TopologicalSorter(modules).prepare()


def test_only_the_demo_imports_drawn_scenes() -> None:
    assert {part for part, others in graph().items() if "synthetic" in others} == set()


def test_no_private_name_crosses_modules() -> None:
    private = [
        f"{name} takes {module}.{taken or ''}"
        for name, tree in trees().items()
        for module, taken in imported(tree)
        if ((taken or "").startswith("_") and taken != "__version__")
        or any(p.startswith("_") for p in module.split("."))
    ]
    assert private == []


def test_files_and_functions_are_short() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}
    functions = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > MOST_FUNCTION_LINES} == {}


def test_a_data_sets_facts_stand_in_few_files() -> None:
    naming = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi")
              and "loveda" in path.read_text(encoding="utf-8").lower()]  # fmt: skip
    assert len(naming) <= MOST_FILES_WITH_LOVEDA, naming

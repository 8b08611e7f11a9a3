"""Hashes of the source files that a module can reach through its imports.

An edited file makes only the stages stale that can reach it.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import kdlib
from kdlib.store.fingerprint import fingerprint_of

HOME = Path(kdlib.__file__).parent.parent
PACKAGES = ("jobs", "kdlib")
OPERATIONAL = (
    "jobs.runtime.code",
    "jobs.runtime.console",
    "jobs.runtime.lock",
    "jobs.runtime.ray_jobs",
    "jobs.runtime.ray_nodes",
    "jobs.runtime.ready",
    "jobs.runtime.stage",
    "kdlib.errors",
    "kdlib.store.files",
    "kdlib.store.folders",
    "kdlib.store.leases",
    "kdlib.store.locks",
    "kdlib.store.objects",
    "kdlib.store.waiting",
)
"""Modules that cannot change a result: they print, lock, check or declare."""
SETTINGS = "kdlib.config"
"""Of this package only functions that compute count. The values of the settings are in a fingerprint anyway."""
VALIDATORS = {"field_validator", "model_validator"}


@functools.cache
def code_of(module: str, *, home: Path = HOME) -> dict[str, str]:
    """File → hash, of all files that a module can reach: its own file and its imports, also those inside functions.

    Comments, docstrings and layout do not count. Other files beside the modules, such as templates, count.

    Args:
      module: `jobs.distill`.
      home: the folder of the packages.
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name in OPERATIONAL:
            continue
        seen.add(name)
        waiting += imports_of(name, home)
    files = [_file(name, home) for name in seen]
    data = {one for file in files for one in _data_beside(file.parent)}
    found = {str(file.relative_to(home)): _hash_once(file) for file in files}
    found |= {str(file.relative_to(home)): hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in data}
    return dict(sorted((path, digest) for path, digest in found.items() if digest))


def source_version() -> str:
    """A hash of all source files of the project, for results files."""
    files = [file for package in PACKAGES for file in sorted((HOME / package).rglob("*.py"))]
    return fingerprint_of([(str(file.relative_to(HOME)), file.read_text()) for file in files])


@functools.cache
def imports_of(module: str, home: Path = HOME) -> tuple[str, ...]:
    """The project's modules that a module imports, also inside functions. Imports for the type checker do not count."""
    names = imported(_file(module, home), module)
    return tuple(sorted(name for name in names if name.split(".")[0] in PACKAGES and _exists(name, home)))


def imported(file: Path, module: str) -> set[str]:
    """The names that a module's file imports: modules, and names inside modules. See `imports_of`."""
    tree = ast.parse(file.read_text(), file.name)
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    hidden = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for part in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return names


def _exists(module: str, home: Path) -> bool:
    path = home.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _file(module: str, home: Path) -> Path:
    path = home.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _data_beside(folder: Path) -> Iterable[Path]:
    """Package data: files other than Python in the folder, and in its subfolders that are no packages."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name != "__pycache__" and not (path / "__init__.py").exists():
                yield from (one for one in sorted(path.rglob("*")) if one.is_file() and one.suffix != ".pyc")
        elif path.suffix not in (".py", ".pyc", ".md"):
            yield path


def hash_of(file: Path) -> str:
    """Hash of a file's code; empty where the file has no code."""
    tree = ast.parse(file.read_text(), file.name)
    module = ".".join(file.with_suffix("").parts[-3:])
    body = _computing(tree.body) if f".{SETTINGS}." in f".{module}" else tree.body
    tree.body = [node for node in map(_without_docstrings, body) if node is not None]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12] if tree.body else ""


_hash_once = functools.cache(hash_of)


def _computing(body: list[ast.stmt]) -> list[ast.stmt]:
    """The functions and methods of the settings, without what only checks values."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.ClassDef):
            found += _computing(node.body)
        elif isinstance(node, ast.FunctionDef) and not any(
            mark in ast.dump(d) for d in node.decorator_list for mark in VALIDATORS
        ):
            found.append(node)
    return found


def _without_docstrings(node: ast.stmt) -> ast.stmt | None:
    """A statement without the docstrings in it; None where the statement is a docstring."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return None
    for name in ("body", "orelse", "finalbody"):
        inner = getattr(node, name, None)
        if isinstance(inner, list):
            setattr(node, name, [kept for kept in map(_without_docstrings, inner) if kept is not None])
    for handler in getattr(node, "handlers", []):
        _without_docstrings(handler)
    return node

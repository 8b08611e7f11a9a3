"""Functions of the user's own, which score items (`teachers[].function`) or encode texts (`text.encoder`): check them early, hash
their source, find the code to send.

A function's source is its module, the packages around it, and what these import. If the module lies in the folder where
distilrec starts, all modules of that folder count. If it lies in an installed package, only this package's modules count.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from jobs.runtime.code import PACKAGES, hash_of, imported
from jobs.runtime.names import encoders_of
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, ModelError
from kdlib.store.fingerprint import fingerprint_of


def check_functions(config: RunConfig) -> None:
    """Import the functions of all teachers, so that a misspelt name ends the run before any work.

    Raises:
      ConfigError: a function cannot be imported.
    """
    functions = _functions(config)
    if functions and config.input.has_events:
        from kdlib.models.function import load_function

        for function in functions:
            load_function(function)


def source_of(function: str, *, what: str = "teacher function") -> dict[str, str]:
    """File → hash of a function's source. Comments, docstrings and layout do not count. Nothing is imported.

    Args:
      function: `my_shop.scores:score`.
      what: its use, for an error's text.

    Raises:
      ConfigError: the module is not there, has no Python source, or has a syntax error.
    """
    module = function.partition(":")[0]
    home = _home(module)
    try:
        files = _reached(home, module)
        found = {str(file.relative_to(home)): hash_of(file) for file in files}
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"the source of the {what} {function} cannot be read: {error}") from None
    if not files:
        raise ConfigError(
            f"there is no Python source of the module {module} of the {what} {function} in {Path.cwd()} or"
            " among the installed packages. Start distilrec in the folder that has it, or install it"
        )
    return {path: digest for path, digest in found.items() if digest}


def source_version(source: Mapping[str, str]) -> str:
    """Hash of the result of `source_of`, 12 digits: the version of the teacher's model, or of the encoder."""
    return fingerprint_of(source)[:12]


def check_sources(config: RunConfig, folders: Sequence[Sequence[Path]]) -> None:
    """Check that the source of each function is the same as when `train-teacher` tried it.

    Args:
      config: for the teachers.
      folders: of each teacher, as from `teacher_folders`.

    Raises:
      ModelError: the source of a function has changed since then.
    """
    from kdlib.models.files import MODEL_FILE

    for teacher, [folder, *_] in zip(config.teachers, folders, strict=True):
        if teacher.function:
            tried = json.loads((folder / MODEL_FILE).read_text())["version"]
            if (found := source_version(source_of(teacher.function))) != tried:
                raise ModelError(
                    f"the source of the teacher function {teacher.function} has changed from {tried} to {found} since it was"
                    f" tried for {config.day}. Run `distilrec train-teacher` first"
                )


def local_code(config: RunConfig) -> list[Path]:
    """The modules and whole packages of this folder that the functions can reach, to be sent to another machine."""
    here = Path.cwd()
    functions = [*_functions(config), *(text.encoder for text in encoders_of(config) if text.kind == "function")]
    files = [file for function in functions for file in _reached(here, function.partition(":")[0])]
    return sorted({here / file.relative_to(here).parts[0] for file in files})


def _functions(config: RunConfig) -> list[str]:
    return [teacher.function for teacher in config.teachers if teacher.function]


def _home(module: str) -> Path:
    """The folder from which a module's top-level package is imported: this folder if the module is here."""
    here = Path.cwd()
    spec = None if _source(here, module) else find_spec(module.partition(".")[0])
    if spec is None:
        return here
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.has_location and spec.origin else here


def _reached(home: Path, module: str) -> list[Path]:
    """The source files under a folder that a module can reach, its own file included. Empty: the module is not there."""
    top, local = module.partition(".")[0], home == Path.cwd()
    seen: dict[str, Path] = {}
    waiting = [module] if _source(home, module) else []
    while waiting:
        name = waiting.pop()
        first, file = name.partition(".")[0], _source(home, name)
        if name in seen or file is None or not (first == top or (local and first not in PACKAGES)):
            continue
        seen[name] = file
        waiting += [name.rpartition(".")[0], *imported(file, name)]  # an import also runs the packages around a module
    return sorted(set(seen.values()))


def _source(home: Path, module: str) -> Path | None:
    """The file of a module under a folder; None where there is none."""
    path = home.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)

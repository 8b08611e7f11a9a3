"""What the person sees: log lines and progress bars. What the engines print goes to a log file."""

from __future__ import annotations

import codecs
import json
import locale
import logging
import os
import re
import shlex
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from kdlib.config.credentials import without_credentials

if TYPE_CHECKING:
    from tqdm import tqdm

    from kdlib.config.run import RunConfig

JSON_LOGS = "DISTILREC_JSON_LOGS"
"""Environment variable: lines are JSON objects, in this process and in those that it starts."""
VERBOSE = "DISTILREC_VERBOSE"
"""Environment variable: what the engines print goes to the terminal, not to a log file."""
RUN_ID = "DISTILREC_RUN_ID"
"""Environment variable: the id of the run, in all of its JSON lines."""
USUAL_CONFIG = "cluster/runs/laptop.yaml"
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_HINT = re.compile(r"`distilrec (?!submit|status)([a-z-]+)(?![^`]*--config)")
_config = USUAL_CONFIG
_overrides: tuple[str, ...] = ()
"""The run config of this command, and its `--set`. Hints name them in the commands that they suggest."""
_person: TextIO | None = None
"""The terminal, while standard output and error are redirected to a log file."""
LOG = logging.getLogger("distilrec")


def say(text: str = "", *, level: int = logging.INFO) -> None:
    """Print a line for the person: an error to standard error, anything else to standard output.

    Keys in URLs are not shown: a hint repeats `--set`.
    """
    LOG.log(level, "%s", without_credentials(with_config(text)))


def warn(text: str) -> None:
    """Print a warning: the run goes on, but a person should look. JSON lines have the level `warning`."""
    say(text, level=logging.WARNING)


class _Handler(logging.Handler):
    """Writes to the terminal, also while standard output goes to a file."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = _person or (sys.stdout if record.levelno < logging.ERROR else sys.stderr)
        text = record.getMessage()
        if os.environ.get(JSON_LOGS):
            moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            line = {"time": moment, "level": record.levelname.lower(), "run_id": run_id(), "message": text}
            text = json.dumps(line, ensure_ascii=False)
        print(text, file=stream, flush=True)


LOG.addHandler(_Handler())
LOG.setLevel(logging.INFO)
LOG.propagate = False


def run_id() -> str:
    """The id of this run. The processes that the run starts have the same id."""
    return os.environ.setdefault(RUN_ID, uuid.uuid4().hex[:12])


@contextmanager
def hints_name(config: str, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Within the block, hints name this run config and these settings in the commands that they suggest."""
    global _config, _overrides
    before, _config, _overrides = (_config, _overrides), config, tuple(overrides)
    try:
        yield
    finally:
        _config, _overrides = before


def with_config(text: str) -> str:
    """The text with `--config` and `--set` added to its commands, to be copied. The usual config is not added."""
    words = "" if _config == USUAL_CONFIG else f" --config {shlex.quote(_config)}"
    words += "".join(f" --set {shlex.quote(override)}" for override in _overrides)
    return _HINT.sub(lambda hint: hint[0] + words, text) if words else text


def safe(text: str) -> str:
    """A text of the shop as one line for a terminal, without control characters and marks that change the direction."""
    return _UNSAFE.sub(" ", text)


def progress(*, total: int | None, unit: str, description: str) -> tqdm:
    """A progress bar for the person; silent where the output is not a terminal."""
    from tqdm import tqdm

    stream = _person or sys.stderr
    return tqdm(total=total, unit=unit, desc=description, file=stream, disable=not stream.isatty(), leave=False)


def in_utf8(argv: list[str] | None) -> None:
    """Restart this process in Python's UTF-8 mode (PEP 540) if the locale has another encoding, as cron's often has.

    Run configs and logs are UTF-8 everywhere, and so is what the engines' processes read and write.

    Args:
      argv: the command's arguments. Only None, the process's own arguments, allows a restart.
    """
    if argv is None and codecs.lookup(locale.getencoding()).name != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextmanager
def engine_output_to(path: Path) -> Iterator[None]:
    """Send standard output and error, child processes' too, to a file; `say` and `progress` still reach the person."""
    global _person
    if _person is not None or os.environ.get(VERBOSE):  # nested: the outer file stays
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    _person = os.fdopen(os.dup(1), "w", buffering=1)
    try:
        with path.open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        yield
    finally:
        _flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        os.close(saved_out)
        os.close(saved_err)
        _person.close()
        _person = None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the log's disk may be full; later lines must still reach the person
            stream.flush()


def log_file(config: RunConfig, stage: str) -> Path:
    """The file for what a stage's engines print."""
    return config.root / "logs" / f"ds={config.day}" / f"{stage}.log"


def one_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else ""

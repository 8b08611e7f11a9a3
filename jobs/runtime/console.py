"""What the person sees: one line a stage and progress bars; the engines' own chatter goes to a log file."""

import argparse
import codecs
import locale
import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import date
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from jobs.runtime.lock import run_lock
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import DistilrecError
from kdlib.release import promotions

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_HINT = re.compile(r"`distilrec (?!submit|status)([a-z-]+)(?![^`]*--config)")
_USUAL_CONFIG = "cluster/runs/laptop.yaml"
_config = _USUAL_CONFIG
"""The run config of this command, which the commands in its hints are to be given, too."""
_person: TextIO | None = None
"""The terminal, while standard output and error are redirected to a log file."""

LOCKED_DAY = (
    "the day that no other run may be at work on meanwhile, YYYY-MM-DD (default: the run config's, or the night in use)"
)
"""What `--ds` is for in a job that is about all nights or the one in use."""


def say(text: str = "") -> None:
    """Print a line for the person."""
    print(_with_config(text), file=_person or sys.stdout, flush=True)


def _with_config(text: str) -> str:
    """With `--config` in the commands that a text gives, unless it is the usual one: as they stand they can be run."""
    words = "" if _config == _USUAL_CONFIG else f" --config {shlex.quote(_config)}"
    return _HINT.sub(lambda hint: hint[0] + words, text) if words else text


def safe(text: str) -> str:
    """A text of the shop's as one line for a terminal: what breaks a line, turns it round or gives a command is a blank."""
    return _UNSAFE.sub(" ", text)


def progress(*, total: int | None, unit: str, description: str) -> tqdm:
    """A progress bar for the person; silent where the output is not a terminal."""
    stream = _person or sys.stderr
    return tqdm(total=total, unit=unit, desc=description, file=stream, disable=not stream.isatty(), leave=False)


def in_utf8(argv: list[str] | None) -> None:
    """Begin this command again in Python's UTF-8 mode (PEP 540) under a locale of another encoding, such as cron's `LANG=de_DE`:
    run configs, logs and what the engines' processes read and write are UTF-8 everywhere.

    Args:
      argv: a job's arguments; with None they are this process's own, which is only then begun again.
    """
    if argv is None and codecs.lookup(locale.getencoding()).name != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextmanager
def engine_output_to(path: Path) -> Iterator[None]:
    """Send standard output and error, child processes' too, to a file; `say` and `progress` still reach the person."""
    global _person
    if _person is not None:  # nested: the outer file stays
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
        with suppress(OSError):  # the log's disk is full: what is said from here on must still reach the person
            stream.flush()


def log_file(config: RunConfig, stage: str) -> Path:
    """Where a stage's engines write their chatter."""
    return config.root / "logs" / f"ds={config.day}" / f"{stage}.log"


def command(
    stage: str,
    run: Callable[[RunConfig], object],
    argv: list[str] | None,
    *,
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    with_arguments: Callable[[RunConfig, argparse.Namespace], object] | None = None,
    load: Callable[[argparse.Namespace], RunConfig] | None = None,
    reads_only: bool = False,
    in_use: bool = False,
    ds_help: str | None = None,
) -> int:
    """The main function of every job: parse, read the run config, run.

    The exit status is 0; that of a `DistilrecError` (`kdlib.errors`); 130 interrupted, 143 stopped by SIGTERM; else 1. A
    job that `reads_only` takes no lock, so that none can hold it up. One that is about what is `in_use` needs no date.
    `ds_help` says what `--ds` is there for, where that is not the day that the run stands for.
    """
    in_utf8(argv)
    parser = argparse.ArgumentParser(prog=f"distilrec {stage.replace('_', '-')}", description=description)
    parser.add_argument("--config", default=_USUAL_CONFIG, help="run config (default: %(default)s)")
    usual = "the run config's, or the night in use" if in_use else "the run config's"
    parser.add_argument("--ds", help=ds_help or f"the day the run stands for, YYYY-MM-DD (default: {usual})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may be repeated"
    )
    if add_arguments:
        add_arguments(parser)
    global _config
    arguments = parser.parse_args(argv)
    before, _config = _config, arguments.config
    started = time.monotonic()
    log: Path | None = None
    stopped: list[int] = []
    try:
        config = load(arguments) if load else loaded(arguments)
        if in_use and config.ds is None and (now := promotions.current(config.root)):
            config = config.model_copy(update={"ds": date.fromisoformat(now.ds)})
        log = log_file(config, stage)
        with interrupted_by_sigterm(stopped), nullcontext() if reads_only else run_lock(config, stage):
            if with_arguments:
                with_arguments(config, arguments)
            else:
                with engine_output_to(log):
                    run(config)
                    say(f"{stage}: done in {time.monotonic() - started:.0f} s")
    except DistilrecError as error:
        print(f"distilrec: error: {_with_config(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        how, status = ("stopped by SIGTERM", 143) if stopped else ("interrupted", 130)
        print(f"distilrec: {how}; nothing half-published, run the same command again to go on", file=sys.stderr)
        return status
    except Exception as error:
        if reads_only and isinstance(error, BrokenPipeError):  # `| head`: who reads has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        if log is not None and _log_traceback(log):
            print(
                f"distilrec: {stage} failed: {type(error).__name__}: {one_line(error)}\nfull text: {log}",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
        return 1
    finally:
        _config = before
    return 0


def _log_traceback(log: Path) -> bool:
    """Whether that was possible: not where the run has come to nothing yet, or the disk is full."""
    try:
        with log.open("a") as stream:
            traceback.print_exc(file=stream)
    except OSError:
        return False
    return True


def loaded(arguments: argparse.Namespace) -> RunConfig:
    """The run config that the arguments name, with what they set."""
    return load_config(arguments.config, overrides=tuple(arguments.set), ds=arguments.ds)


@contextmanager
def interrupted_by_sigterm(stopped: list[int]) -> Iterator[None]:
    """SIGTERM, as a scheduler sends it, is a KeyboardInterrupt, as Ctrl-C is, and ends the engines too; `stopped` then holds it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def one_line(error: Exception) -> str:
    """The first line of an error's text that says something."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else ""

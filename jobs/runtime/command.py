"""The frame of every command: read the run config, take the date's lock, run, turn errors into exit statuses.

The command line imports this module for its help too, so what a run needs is imported when a command runs.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.runtime.console import engine_output_to, hints_name, log_file, one_line, say
from kdlib.errors import ConfigError, DistilrecError

if TYPE_CHECKING:
    from kdlib.config.run import RunConfig


@dataclass(frozen=True)
class Invocation:
    """What was given on the command line, for all commands that read a run config."""

    config: str
    ds: str | None = None
    overrides: tuple[str, ...] = ()

    def load(self) -> RunConfig:
        """The run config with what the command line sets."""
        from jobs.runtime.budget import scale_of
        from kdlib.config.load import load_config

        return load_config(self.config, overrides=self.overrides, ds=self.ds, scale_of=scale_of)

    def on(self, ds: str) -> Invocation:
        """The same for another date."""
        return replace(self, ds=ds)

    def words(self) -> list[str]:
        """The invocation as arguments, for another process."""
        found = ["--config", self.config, *(["--ds", self.ds] if self.ds else [])]
        return found + [word for override in self.overrides for word in ("--set", override)]


def of_all_dates(invocation: Invocation) -> RunConfig:
    """The run config for a command about an output folder as a whole. Only its log has a date: today.

    Raises:
      ConfigError: a date is given, or no run has been made in the output folder.
    """
    from jobs.runtime.output import open_output
    from kdlib.config.load import load_config
    from kdlib.store.partitions import STAGING, VERSIONS

    if invocation.ds is not None:
        raise ConfigError(f"--ds {invocation.ds}: this command is about all runs and takes no date")
    config = load_config(invocation.config, overrides=invocation.overrides)
    open_output(config)
    if not any((config.root / name).exists() for name in (VERSIONS, STAGING)):
        raise ConfigError(
            f"no run has been made in {config.place()}, the output_dir of the run config {invocation.config}. Give the"
            " shop's own run config with --config"
        )
    return config.model_copy(update={"ds": datetime.now(UTC).date()})


def execute(
    name: str,
    invocation: Invocation,
    run: Callable[[RunConfig], object],
    *,
    load: Callable[[], RunConfig] | None = None,
    reads_only: bool = False,
    all_dates: bool = False,
    in_use: bool = False,
    quiet_engines: bool = False,
) -> int:
    """Run a command; returns its exit status.

    The status is 0, the status of a `DistilrecError` (`kdlib.errors`), 130 after Ctrl-C, 143 after SIGTERM, else 1.

    Args:
      name: of the command, for its log and its lock.
      invocation: what the command line gave.
      run: does the work.
      load: reads the run config, where `invocation.load` does not fit.
      reads_only: the command takes no lock, so that no run can block it.
      all_dates: the command is about the output folder as a whole. It gets the run config of `of_all_dates`, and takes no
        date's lock.
      in_use: without a date, the command takes the date of the run in use.
      quiet_engines: the engines write to a log file. A line at the end gives the seconds.
    """
    from jobs.runtime.lock import run_lock
    from jobs.runtime.output import open_output, send_logs, store_errors
    from kdlib.release import promotions
    from kdlib.store.format import check_format, write_format

    started, config, log, stopped = time.monotonic(), None, None, list[int]()
    begun = False
    unlocked = reads_only or all_dates
    with hints_name(invocation.config, invocation.overrides):
        try:
            config = load() if load else of_all_dates(invocation) if all_dates else invocation.load()
            open_output(config)
            check_format(config.root)
            if in_use and config.ds is None and (now := promotions.current(config.root)):
                config = config.model_copy(update={"ds": date.fromisoformat(now.ds)})
            log = log_file(config, name)
            locked = nullcontext() if unlocked else run_lock(config, name)
            with interrupted_by_sigterm(stopped), store_errors(config), locked:
                begun = True
                if not unlocked:
                    write_format(config.root)
                with engine_output_to(log) if quiet_engines else nullcontext():
                    run(config)
                    if quiet_engines:
                        say(f"{name}: done in {time.monotonic() - started:.0f} s")
        except DistilrecError as error:
            say(f"distilrec: error: {error}", level=logging.ERROR)
            return error.exit_status
        except KeyboardInterrupt:
            how, status = ("stopped by SIGTERM", 143) if stopped else ("interrupted", 130)
            say(
                f"distilrec: {how}; nothing is half-published. Run the same command again to resume",
                level=logging.ERROR,
            )
            return status
        except Exception as error:
            return _unexpected(error, name, log, reads_only=reads_only)
        finally:
            if config and begun and not reads_only:
                send_logs(config)
    return 0


_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def _unexpected(error: Exception, name: str, log: Path | None, *, reads_only: bool) -> int:
    """Print an unexpected error and return its exit status. The traceback goes to the log file."""
    if reads_only and isinstance(error, BrokenPipeError):  # `| head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    logged = log is not None and _log_traceback(log)
    if full := next((text for text in _FULL if text in str(error)), None):  # Spark and Ray wrap the error in theirs
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        say(
            f"distilrec: {name} failed: {full}{where}. Nothing is half-published, and the run in use stays. Free"
            " space on the disks of output_dir and of the temporary files; `distilrec prune` removes old runs",
            level=logging.ERROR,
        )
    elif logged:
        say(
            f"distilrec: {name} failed: {type(error).__name__}: {one_line(error)}\nfull text: {log}",
            level=logging.ERROR,
        )
    else:
        traceback.print_exc(file=sys.stderr)
    return 1


def _log_traceback(log: Path) -> bool:
    """Write the traceback. False: the run's folder does not exist yet, or the disk is full."""
    try:
        with log.open("a") as stream:
            traceback.print_exc(file=stream)
    except OSError:
        return False
    return True


@contextmanager
def interrupted_by_sigterm(stopped: list[int]) -> Iterator[None]:
    """Within the block, SIGTERM raises KeyboardInterrupt, so that the engines end too. `stopped` gets its number."""
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

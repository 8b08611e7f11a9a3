"""The result of a check, and how to run one: in a process of its own, so that a check may hang or crash."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

from kdlib.errors import DistilrecError

SECONDS = 30.0
"""How long a check may take. The slow checks start Java, or import torch from a cold disk."""
END_SECONDS = 2.0
"""How long a stopped check may take to remove its files."""
MOST_TEXT = 500
"""At most this many characters of an error are shown."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    state: Literal["ok", "missing", "not needed"]
    found: str
    """What was found, in one line."""
    advice: str = ""
    """What to do; empty where nothing is to be done."""


def ok(found: str, advice: str = "") -> Finding:
    """What is needed is there."""
    return Finding("ok", found, advice)


def missing(found: str, advice: str) -> Finding:
    """What is needed is not there."""
    return Finding("missing", found, advice)


def not_needed(found: str, advice: str = "") -> Finding:
    """This machine or this run config does not need it."""
    return Finding("not needed", found, advice)


def run_check(check: Callable[[], Finding], *, seconds: float = SECONDS) -> Finding:
    """The finding of a check. A check that raises, crashes or takes longer than `seconds` gives `missing`.

    The check runs in a fork of this process, which must not have used an object store: its client cannot be forked. Output
    is dropped.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_check_and_send, args=(check, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            return receiver.recv()
        return missing(
            f"no answer within {seconds:g} s", "Look for a file system, a server or a driver that does not answer"
        )
    except EOFError:
        process.join(END_SECONDS)
        return missing(
            f"the check's process died with status {process.exitcode}", "Look at the kernel's log: memory may be short"
        )
    finally:
        for end in (process.terminate, process.kill):
            end()
            process.join(END_SECONDS)
        receiver.close()


def _check_and_send(check: Callable[[], Finding], sender: Connection) -> None:
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # raises KeyboardInterrupt, so that the check removes its files
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    try:
        finding = check()
    except DistilrecError as error:  # its text says what to do
        finding = missing(_one_line(str(error)), "")
    except Exception as error:
        finding = missing(_one_line(f"{type(error).__name__}: {error}"), "Mend what the error names")
    sender.send(finding)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MOST_TEXT]

"""Wait for calls to a store. A call has a deadline, and a signal ends the wait."""

import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from kdlib.store.folders import StoreError

Item = TypeVar("Item")
Result = TypeVar("Result")

PARALLEL = 16
"""How many calls are made at a time."""


def wait_for(call: Callable[[], Result], *, seconds: float, where: str) -> Result:
    """The result of a call that waits for a store.

    Clients written in Rust do not look at signals while they wait. So the call has a thread of its own, and this one waits.

    Args:
      call: it may go on after the deadline or a signal, until the process ends.
      seconds: the deadline.
      where: the place, for the error's text.

    Raises:
      StoreError: the call has failed or has not ended. Errors that say more, such as `ConflictError`, pass.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if not errors:
        raise StoreError(f"{where} has not answered within {seconds:g} s")
    if isinstance(errors[0], StoreError):
        raise errors[0]
    raise StoreError(_text_of(errors[0])) from errors[0]


def in_parallel(call: Callable[[Item], Result], items: Iterable[Item], *, at_a_time: int = PARALLEL) -> list[Result]:
    """The results of a call for all items, in their order.

    The first error, or a signal, ends the wait. Calls that have begun may then go on until the process ends.
    """
    given = list(items)
    todo: SimpleQueue[int] = SimpleQueue()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    results: dict[int, Result] = {}
    for number in range(len(given)):
        todo.put(number)

    def work() -> None:
        with suppress(Empty):
            while True:
                number = todo.get_nowait()
                try:
                    results[number] = call(given[number])
                    ended.put(None)
                except BaseException as error:
                    ended.put(error)

    for _ in range(min(at_a_time, len(given))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in given:
            if (error := ended.get()) is not None:
                raise error
    finally:
        with suppress(Empty):
            while True:
                todo.get_nowait()
    return [results[number] for number in range(len(given))]


def _text_of(error: BaseException) -> str:
    """An error in one line, after the code that the store has answered (`AccessDenied`)."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))  # colours
    code = re.search(r"<Code>(\w+)</Code>", text)
    line = " ".join(re.split(r"<\?xml|<Error>|\n\n", text)[0].split()) or type(error).__name__
    return f"{code[1]}: {line}" if code else line

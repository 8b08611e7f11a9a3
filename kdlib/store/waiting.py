"""Wait for a call to a store. The call has a deadline, and a signal ends the wait."""

import re
import threading
from collections.abc import Callable
from typing import TypeVar

from kdlib.store.folders import StoreError

Result = TypeVar("Result")


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


def _text_of(error: BaseException) -> str:
    """An error in one line, after the code that the store has answered (`AccessDenied`)."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))  # colours
    code = re.search(r"<Code>(\w+)</Code>", text)
    line = " ".join(re.split(r"<\?xml|<Error>|\n\n", text)[0].split()) or type(error).__name__
    return f"{code[1]}: {line}" if code else line

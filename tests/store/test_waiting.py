"""Waiting for a call to a store."""

import signal
import threading
import time

import pytest

from kdlib.store.folders import ConflictError, StoreError
from kdlib.store.waiting import in_parallel, wait_for
from tests.s3 import assert_a_signal_ends


def test_a_call_returns_or_raises_what_it_does():
    """Errors of the folder pass as they are; every other error is a StoreError of one line."""

    def fails(error):
        def call():
            raise error

        return call

    assert wait_for(lambda: 7, seconds=5, where="there") == 7
    with pytest.raises(ConflictError, match="other"):
        wait_for(fails(ConflictError("other")), seconds=5, where="there")
    for error, text in (
        (ValueError("no key\n\nDebug source"), "^no key$"),
        (KeyError(), "^KeyError$"),
        (OSError("404: <?xml>\n<Error><Code>NoSuchBucket</Code></Error>"), "^NoSuchBucket: 404:$"),
        (OSError("S3 error\n   \x1b[31m↳\x1b[0m request"), "^S3 error ↳ request$"),
    ):
        with pytest.raises(StoreError, match=text) as found:
            wait_for(fails(error), seconds=5, where="there")
        assert found.value.__cause__ is error


def test_a_call_that_does_not_end_is_an_error_after_the_deadline():
    """The text names the place and the deadline."""
    with pytest.raises(StoreError, match=r"^there has not answered within 0\.1 s$"):
        wait_for(lambda: time.sleep(3), seconds=0.1, where="there")


def test_a_signal_ends_the_wait():
    """The call itself may go on."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            wait_for(lambda: time.sleep(5), seconds=60, where="there")
        assert time.monotonic() - started < 3
    finally:
        signal.signal(signal.SIGALRM, before)


def test_calls_are_made_together_and_all_of_them():
    """As many calls as are allowed wait at a time, and the results have the order of the items."""
    together = threading.Barrier(4, timeout=5)
    found = in_parallel(lambda n: (together.wait(), n)[1], range(8), at_a_time=4)
    assert found == list(range(8))


def test_the_first_error_ends_the_calls():
    """Calls that have not begun are not made after an error."""
    made = []

    def call(n):
        made.append(n)
        if n == 0:
            raise OSError("refused")
        time.sleep(0.05)

    with pytest.raises(OSError, match="refused"):
        in_parallel(call, range(100), at_a_time=2)
    time.sleep(0.5)
    assert len(made) < 8


def test_a_signal_ends_the_wait_for_many_calls():
    """Ctrl-C is not held up by calls that wait."""
    assert_a_signal_ends(lambda: in_parallel(time.sleep, [10.0] * 3), after=0.2)

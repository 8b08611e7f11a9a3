"""Waiting for a call to a store."""

import signal
import time

import pytest

from kdlib.store.folders import ConflictError, StoreError
from kdlib.store.waiting import wait_for


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

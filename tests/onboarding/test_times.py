"""Texts → how they write a time, and the time itself."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from kdlib.onboarding.times import seconds_of, time_form


@pytest.mark.parametrize(
    ("text", "format_", "pattern", "at"),
    [
        ("2019-11-01 00:00:05 UTC", "iso", None, "2019-11-01T00:00:05"),
        ("2019-11-01", "iso", None, "2019-11-01T00:00:00"),
        ("2019-11-01T00:30:00+02:00", "iso", None, "2019-10-31T22:30:00"),
        ("2019-11-01T23:30:00-0130", "iso", None, "2019-11-02T01:00:00"),
        ("2019-11-01T10:00:00.123Z", "iso", None, "2019-11-01T10:00:00"),
        ("1511544070", "epoch_seconds", None, "2017-11-24T17:21:10"),
        ("1511544070.25", "epoch_seconds", None, "2017-11-24T17:21:10.25"),
        ("1.51154407e+09", "epoch_seconds", None, "2017-11-24T17:21:10"),
        ("1511544070000", "epoch_millis", None, "2017-11-24T17:21:10"),
        ("1511544070000000", "epoch_micros", None, "2017-11-24T17:21:10"),
        ("21.12.2025 13:45", "pattern", "d.M.yyyy H:mm", "2025-12-21T13:45:00"),
        ("12/21/2025 8:26", "pattern", "M/d/yyyy H:mm", "2025-12-21T08:26:00"),
        ("21/12/25 1:05 PM", "pattern", "d/M/yy h:mm a", "2025-12-21T13:05:00"),
        ("21.12.2025, 13:45:10", "pattern", "d.M.yyyy, H:mm:ss", "2025-12-21T13:45:10"),
        ("2025/11/21 13:45:10.25", "pattern", "yyyy/M/d H:mm:ss.SSSSSSSSS", "2025-11-21T13:45:10"),
        ("2025-11-21 13:45:10,123", "pattern", "yyyy-M-d H:mm:ss,SSSSSSSSS", "2025-11-21T13:45:10"),
        ("21-NOV-25", "pattern", "d-MMM-yy", "2025-11-21T00:00:00"),
        ("November 21, 2025", "pattern", "MMMM d, yyyy", "2025-11-21T00:00:00"),
        ("20191101", "pattern", "yyyyMMdd", "2019-11-01T00:00:00"),
        ("20191101123005", "pattern", "yyyyMMddHHmmss", "2019-11-01T12:30:05"),
        ("2018-9-5", "pattern", "yyyy-M-d", "2018-09-05T00:00:00"),
        ("Nov 1, 2019", "pattern", "MMM d, yyyy", "2019-11-01T00:00:00"),
        ("09 13, 2009", "pattern", "M d, yyyy", "2009-09-13T00:00:00"),
    ],
)
def test_a_form_of_time(text, format_, pattern, at):
    """Each usual form of a time is recognised and gives the right UTC second."""
    form = time_form(pa.array([text, text, None]))
    assert form is not None
    assert (form.format, form.pattern) == (format_, pattern)
    seconds = seconds_of(pa.array([text, None]), form)
    assert seconds[0] == pytest.approx(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp())
    assert np.isnan(seconds[1])


@pytest.mark.parametrize("text", ["5", "12.50", "2017", "12:30", "S1234", "19.99", "1", "20009999", "now"])
def test_other_numbers_and_texts_are_no_times(text):
    """Prices, years, clocks and ids are no times."""
    assert time_form(pa.array([text] * 5)) is None


def test_the_values_tell_whether_the_day_comes_first():
    """One day above 12 decides; without one, both patterns are named."""
    one, both = time_form(pa.array(["01/02/2025", "01/13/2025"])), time_form(pa.array(["01/02/2025", "03/04/2025"]))
    assert one is not None
    assert both is not None
    assert (one.pattern, one.other_pattern) == ("M/d/yyyy", None)
    assert (both.pattern, both.other_pattern) == ("d/M/yyyy", "M/d/yyyy")


def test_a_tenth_may_be_damaged():
    """A column with a few values that do not parse still holds times, and the share that parses is known."""
    form = time_form(pa.array(["2019-11-01"] * 19 + ["unknown"]))
    assert form is not None
    assert form.share == 0.95
    assert time_form(pa.array(["2019-11-01"] * 4 + ["unknown"])) is None

"""How a column writes times: ISO 8601, seconds or milliseconds since 1970, or a pattern."""

import re
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import pyarrow as pa

from kdlib.onboarding.arrow import pc

_EPOCH = date(1970, 1, 1)
_YEARS = (1990, 2100)
"""Times outside these years are taken for other numbers."""
_SHARE = 0.9
"""So many of the values must parse, or the column holds no times."""
_ISO = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})(?:[T ](?P<hour>\d{1,2})(?::(?P<minute>\d{1,2})(?::(?P<second>\d{1,2})(?:\.\d*)?)?)?"
    r"\s*(?:Z|UTC|GMT|(?P<offset>[+-]\d{1,2})(?::?(?P<offset_minute>\d{2}))?)?)?$"
)
"""ISO 8601 as a run reads it."""
_UNITS = {"epoch_seconds": 1, "epoch_millis": 1_000, "epoch_micros": 1_000_000}

_DATES = {  # the form of a date → (Spark's pattern, strptime's), in the order of preference
    r"\d{1,2}(?P<sign>[./-])\d{1,2}(?P=sign)\d{4}": (
        ("d{0}M{0}yyyy", "%d{0}%m{0}%Y"),
        ("M{0}d{0}yyyy", "%m{0}%d{0}%Y"),
    ),
    r"\d{1,2}(?P<sign>[./-])\d{1,2}(?P=sign)\d{2}": (("d{0}M{0}yy", "%d{0}%m{0}%y"), ("M{0}d{0}yy", "%m{0}%d{0}%y")),
    r"\d{4}(?P<sign>[./-])\d{1,2}(?P=sign)\d{1,2}": (("yyyy{0}M{0}d", "%Y{0}%m{0}%d"),),
    r"\d{8}": (("yyyyMMdd", "%Y%m%d"),),
    r"\d{1,2}-[A-Za-z]{3}-\d{2}": (("d-MMM-yy", "%d-%b-%y"),),
    r"[A-Za-z]{4,9} \d{1,2}, \d{4}": (("MMMM d, yyyy", "%B %d, %Y"),),
    r"\d{1,2} [A-Za-z]{4,9} \d{4}": (("d MMMM yyyy", "%d %B %Y"),),
    r"\d{1,2} [A-Za-z]{3} \d{4}": (("d MMM yyyy", "%d %b %Y"),),
    r"\d{1,2}-[A-Za-z]{3}-\d{4}": (("d-MMM-yyyy", "%d-%b-%Y"),),
    r"[A-Za-z]{3} \d{1,2}, \d{4}": (("MMM d, yyyy", "%b %d, %Y"),),
    r"\d{1,2} \d{1,2}, \d{4}": (("M d, yyyy", "%m %d, %Y"),),
}
_CLOCKS = {  # the form of what follows the date
    r"": ("", ""),
    r"(?P<gap>,? )\d{1,2}:\d{2}": ("{0}H:mm", "{0}%H:%M"),
    r"(?P<gap>,? )\d{1,2}:\d{2}:\d{2}": ("{0}H:mm:ss", "{0}%H:%M:%S"),
    r"(?P<gap>,? )\d{1,2}:\d{2}:\d{2}(?P<point>[.,])\d{1,9}": ("{0}H:mm:ss{1}SSSSSSSSS", "{0}%H:%M:%S"),
    r"(?P<gap>,? )\d{1,2}:\d{2} [AaPp][Mm]": ("{0}h:mm a", "{0}%I:%M %p"),
    r"(?P<gap>,? )\d{1,2}:\d{2}:\d{2} [AaPp][Mm]": ("{0}h:mm:ss a", "{0}%I:%M:%S %p"),
    r"(?P<gap> ?)\d{6}": ("{0}HHmmss", "{0}%H%M%S"),
}


@dataclass(frozen=True)
class TimeForm:
    """How a column's times are written."""

    format: str
    """iso, epoch_seconds, epoch_millis, epoch_micros or pattern."""
    pattern: str | None = None
    """Spark's pattern."""
    share: float = 1.0
    """Share of the sample's values that parse."""
    days_only: bool = False
    """The times are whole days."""
    other_pattern: str | None = None
    """The same with month and day swapped, where the values fit both."""


ISO = TimeForm("iso")


def time_form(values: pa.Array) -> TimeForm | None:
    """How the values write times; None where they are no times.

    Args:
      values: trimmed text; nulls do not count.
    """
    values = values.drop_null()
    if not len(values):
        return None
    forms = [_epoch(values), _iso(values), *_patterns(values)]
    good = [form for form in forms if form and form.share >= _SHARE]
    return max(good, key=lambda form: form.share, default=None)


def seconds_of(values: pa.Array, form: TimeForm) -> np.ndarray:
    """Seconds since 1970, float64 [values]; NaN where a value is null or does not parse.

    Args:
      values: trimmed text.
      form: from `time_form`.
    """
    if form.format in _UNITS:
        return _numbers(values) / _UNITS[form.format]
    if form.format == "iso":
        return _iso_seconds(values)
    assert form.pattern
    return _parsed(values, _strptime_of(form.pattern))


def day_of(seconds: float) -> date:
    """The UTC day of a time; the nearest day that a date can hold."""
    return date.fromordinal(int(min(max(_EPOCH.toordinal() + seconds // 86_400, 1), date.max.toordinal())))


def _numbers(values: pa.Array) -> np.ndarray:
    plain = pc.match_substring_regex(values, r"^-?\d{1,20}(?:\.\d+)?(?:[eE]\+?\d{1,2})?$")
    return pc.if_else(plain, values, pa.scalar(None, pa.string())).cast(pa.float64()).to_numpy(zero_copy_only=False)


def _epoch(values: pa.Array) -> TimeForm | None:
    numbers = _numbers(values)
    found = numbers[np.isfinite(numbers)]
    if not len(found):
        return None
    low, high = ((datetime(year, 1, 1) - datetime(1970, 1, 1)).total_seconds() for year in _YEARS)
    for name, unit in _UNITS.items():
        inside = (found >= low * unit) & (found < high * unit)
        if (share := inside.sum() / len(values)) >= _SHARE:
            whole = bool(np.all(np.mod(found[inside], 86_400 * unit) == 0))
            return TimeForm(name, share=float(share), days_only=whole)
    return None


def _iso(values: pa.Array) -> TimeForm | None:
    matched = pc.sum(pc.match_substring_regex(values, _ISO)).as_py()
    if not matched:
        return None
    seconds = _iso_seconds(values)
    seconds = seconds[~np.isnan(seconds)]
    return TimeForm("iso", share=len(seconds) / len(values), days_only=bool(np.all(np.mod(seconds, 86_400) == 0)))


def _iso_seconds(values: pa.Array) -> np.ndarray:
    parts = pc.extract_regex(values, _ISO)
    day = _parsed(pc.struct_field(parts, "day"), "%Y-%m-%d")
    hour, minute, second, offset, offset_minute = (
        np.nan_to_num(_numbers(pc.replace_substring(pc.struct_field(parts, name), "+", "")))
        for name in ("hour", "minute", "second", "offset", "offset_minute")
    )
    west = pc.fill_null(pc.starts_with(pc.struct_field(parts, "offset"), "-"), False).to_numpy(zero_copy_only=False)
    shift = offset * 3_600 + np.where(west, -offset_minute, offset_minute) * 60
    return day + hour * 3_600 + minute * 60 + second - shift


def _patterns(values: pa.Array) -> list[TimeForm]:
    """The patterns that fit the values. Day and month count as swapped only where all values fit both."""
    first = values[0].as_py()
    for date_form, dates in _DATES.items():
        for clock_form, clock in _CLOCKS.items():
            if not (found := re.fullmatch(date_form + clock_form, first)):
                continue
            sign, gap, point = (found.groupdict().get(name) or "" for name in ("sign", "gap", "point"))
            forms = []
            for spark, python in dates:
                pattern = spark.format(sign) + clock[0].format(gap, point)
                parsed = _parsed(values, python.format(sign) + clock[1].format(gap))
                parsed = parsed[(parsed >= -1e9) & (parsed < 5e9)]
                if len(parsed):
                    whole = bool(np.all(np.mod(parsed, 86_400) == 0))
                    forms.append(TimeForm("pattern", pattern, len(parsed) / len(values), whole))
            return _told_apart(forms)
    return []


def _told_apart(forms: list[TimeForm]) -> list[TimeForm]:
    if len(forms) == 2 and abs(forms[0].share - forms[1].share) < 1e-9:
        one, other = forms
        return [TimeForm(one.format, one.pattern, one.share, one.days_only, other.pattern)]
    return forms


def _strptime_of(pattern: str) -> str:
    """strptime's form of one of the patterns above, without the fraction of a second."""
    pattern = re.sub(".S+", "", pattern)
    names = {
        "yyyy": "%Y", "yy": "%y", "MMMM": "%B", "MMM": "%b", "MM": "%m", "M": "%m", "dd": "%d", "d": "%d",
        "HH": "%H", "H": "%H", "h": "%I", "mm": "%M", "ss": "%S", "a": "%p",
    }  # fmt: skip
    return re.sub("|".join(names), lambda found: names[found[0]], pattern)


def _parsed(values: pa.Array, form: str) -> np.ndarray:
    """Seconds since 1970, without a fraction; NaN where a value is null or does not parse."""
    if form.endswith("%S"):
        values = pc.replace_substring_regex(values, r"[.,]\d{1,9}$", "")
    times = pc.strptime(values, format=form, unit="s", error_is_null=True).cast(pa.int64()).cast(pa.float64())
    return times.to_numpy(zero_copy_only=False)

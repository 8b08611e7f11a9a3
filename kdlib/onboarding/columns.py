"""Which column of a source plays which role: by its name, and checked by its values."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from kdlib.onboarding.arrow import pc
from kdlib.onboarding.sample import Source
from kdlib.onboarding.times import TimeForm, time_form
from kdlib.onboarding.words import event_type_of, role_score

NO_VALUE = ("na", "n/a", "nan", "null", "none", "\\n", "unknown", "undefined", "anonymous", "guest")
"""Texts by which shops write that a value is missing."""
NO_ID = ("0", "-1", "-")
"""Ids that mean nobody, if they stand in far more rows than any other id."""
MOST_TYPES = 60
"""A column with more values than this holds no event types."""
FEW_ROWS = 20
"""With fewer rows, it is no sign that all values differ."""
_SECONDS_A_DAY = 86_400
_MOST_DAYS = 100_000
_ASIN = r"^(?:B0[0-9A-Z]{8}|[0-9]{9}[0-9X])$"


@dataclass(frozen=True)
class Doubt:
    """A guess that a person should check."""

    setting: str
    """Which setting of the run config, `input.events.item`."""
    text: str
    """What was guessed and by which evidence, in a sentence or two."""


def share(part: float, whole: float) -> str:
    """A share as text: `12.5%`."""
    return f"{part / whole:.1%}" if whole else "none"


def examples(values: pa.Array, most: int = 3) -> str:
    """Some different values as text: `'a', 'b'`."""
    found = pc.unique(values.slice(0, 10_000).drop_null())
    return ", ".join(repr(value[:40]) for value in found.slice(0, most).to_pylist())


def share_matching(values: pa.Array, form: str) -> float:
    """Share of the values that a regular expression fits; of nulls, none."""
    return (pc.sum(pc.match_substring_regex(values, form)).as_py() or 0) / max(1, len(values))


def num_distinct(values: pa.Array) -> int:
    """Number of different values; nulls do not count."""
    return pc.count_distinct(values).as_py()


def counts_of(values: pa.Array) -> list[tuple[str, int]]:
    """The values with their numbers of rows, the most frequent first."""
    found = [(one["values"], one["counts"]) for one in pc.value_counts(values.drop_null()).to_pylist()]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def no_ids_of(values: pa.Array) -> dict[str, int]:
    """The ids that stand for nobody or nothing, such as `NA`, and their numbers of rows."""
    values = values.drop_null()
    odd = pc.is_in(pc.utf8_lower(values), pa.array([*NO_VALUE, *NO_ID]))
    most = pc.max(pc.value_counts(values.filter(pc.invert(odd))).field("counts")).as_py() or 0
    return {
        value: number
        for value, number in counts_of(values.filter(odd))
        if value.lower() in NO_VALUE or number > 5 * most > 0
    }


def numbers_of(values: pa.Array) -> pa.Array:
    """The values that are plain numbers, as float64; a decimal comma counts as a point."""
    plain = pc.replace_substring(values.drop_null(), ",", ".")
    return plain.filter(pc.match_substring_regex(plain, r"^[-+]?\d{1,15}(?:\.\d+)?$")).cast(pa.float64())


def best_column(
    source: Source, role: str, *, taken: Collection[str | None] = (), least: float = 1, least_distinct: int = 1
) -> str | None:
    """The column whose name fits a role best; None where none fits.

    Args:
      source: a sample.
      role: a key of `words.NAMES`.
      taken: columns with another role.
      least: least score (see `words.role_score`).
      least_distinct: least number of different values.
    """
    scores = {name: role_score(name, role) for name in source.columns if name not in taken}
    good = {
        name: score
        for name, score in scores.items()
        if score >= least and num_distinct(source.columns[name]) >= least_distinct
    }
    return max(good, key=lambda name: (good[name], num_distinct(source.columns[name])), default=None)


def id_column(source: Source, role: str, *, taken: Collection[str | None], least: float = 1) -> str | None:
    """The column with the ids of a role. Ids that are seen twice are preferred: others are of rows."""
    once = [
        name
        for name, values in source.columns.items()
        if role_score(name, role) and num_distinct(values) in (1, source.num_rows)
    ]
    return best_column(source, role, taken=[*taken, *once], least=least) or best_column(
        source, role, taken=taken, least=least
    )


def time_column(source: Source, *, taken: Collection[str | None] = ()) -> tuple[str, TimeForm] | None:
    """The column with the events' times; a time of day is preferred to a day, then the better name counts."""
    found = []
    for name in source.columns:
        score = role_score(name, "time")
        if name in taken or not (form := time_form(source.columns[name].slice(0, 50_000))):
            continue
        numeric = form.format.startswith("epoch") or form.pattern == "yyyyMMdd"
        if score or not numeric or not source.form.first_line_names:
            found.append(((score > 0, not form.days_only, score), name, form))
    if not found:
        return None
    _, name, form = max(found, key=lambda one: one[0])
    return name, form


def order_column(source: Source, taken: Sequence[str | None]) -> tuple[str | None, str]:
    """The column with a running number within a day or a session, and its unit; None without one."""
    name = best_column(source, "order", taken=taken, least=3, least_distinct=2)
    highest = _highest_whole(source.columns[name]) if name else None
    if highest is None or highest >= 1_000 * _SECONDS_A_DAY:
        return None, "seconds"
    return name, "seconds" if highest < _SECONDS_A_DAY else "milliseconds"


def day_number(source: Source, taken: Sequence[str | None]) -> str | None:
    """The column with a number that rises with time, such as the number of a user's order."""
    name = best_column(source, "day_number", taken=taken, least=3, least_distinct=2)
    highest = _highest_whole(source.columns[name]) if name else None
    return name if highest is not None and highest < _MOST_DAYS else None


def _highest_whole(values: pa.Array) -> float | None:
    """The highest of some whole numbers from 0; None where the values are no such numbers."""
    numbers = numbers_of(values)
    if len(numbers) < 0.9 * (len(values) - values.null_count) or not len(numbers):
        return None
    whole = pc.all(pc.and_(pc.equal(numbers, pc.floor(numbers)), pc.greater_equal(numbers, 0))).as_py()
    return pc.max(numbers).as_py() if whole else None


def type_column(source: Source, *, taken: Collection[str | None] = ()) -> str | None:
    """The column with the event types: a fitting name, few values, and half of the rows with a type that we know."""
    scores = {name: role_score(name, "event_type") for name in source.columns if name not in taken}
    for name in sorted((name for name in scores if scores[name] >= 1), key=lambda name: -scores[name]):
        types = counts_of(source.columns[name])
        if len(types) > MOST_TYPES:
            continue
        known = sum(number for value, number in types if event_type_of(value) is not None)
        if 2 * known >= sum(number for _, number in types) > 0 or is_coded(name, [value for value, _ in types]):
            return name
    return None


def is_coded(name: str, types: list[str]) -> bool:
    """Whether event types are the numbers 1 to 4, as Tianchi's shops write them."""
    return role_score(name, "event_type") >= 3 and 1 < len(types) <= 4 and set(types) <= {"1", "2", "3", "4"}


def with_names(source: Source) -> tuple[Source, list[Doubt]]:
    """A source without a header under names by position and values: user, item, event type, time, rating, category.

    Returns the source, and what to check.
    """
    if source.form.format != "csv" or source.form.first_line_names:
        return source, []
    names: dict[str, str] = {}
    if found := time_column(source):
        names[found[0]] = "timestamp"
    for name, values in source.columns.items():
        types = counts_of(values.slice(0, 50_000))
        if name in names or not types or len(types) > MOST_TYPES:
            continue
        known = sum(number for value, number in types if event_type_of(value) is not None)
        numbers = {value for value, _ in types}
        if known > 0.8 * sum(number for _, number in types):
            names.setdefault(name, "event_type" if "event_type" not in names.values() else name)
        elif (
            2 < len(types) <= 11
            and len(numbers_of(values))
            and numbers <= {f"{n / 2:g}" for n in range(21)} | {f"{n / 2:.1f}" for n in range(21)}
        ):
            names[name] = "rating" if "rating" not in names.values() else name
    ids = [name for name, values in source.columns.items() if name not in names and _may_be_ids(values)]
    if len(ids) > 1 and _share_of_asins(source.columns[ids[0]]) > 0.9:
        ids[:2] = ids[1::-1]
    if len(ids) > 1:
        user, item = ids[0], next((name for name in ids[1:] if not follows(source, name, ids[0])), ids[1])
        for name in ids[ids.index(item) + 1 :]:  # the seller, then the item
            if follows(source, item, name) and not follows(source, user, name):
                item = name
        names |= {user: "user_id", item: "item_id"}
        if category := next((name for name in ids if name not in names and follows(source, name, item)), None):
            names[category] = "category_id"
    named = tuple(names.get(name, name) for name in source.form.names)
    columns = {names.get(name, name): values for name, values in source.columns.items()}
    told = ", ".join(f"{name} ({examples(columns[name], 2)})" for name in named if not name.startswith("column_"))
    doubt = Doubt(
        "input.events.columns",
        f"{source.name} has no header, so the columns are named by position and values: {told}. Check that user and"
        " item are not swapped",
    )
    return replace(source, form=replace(source.form, names=named), columns=columns), [doubt]


def _share_of_asins(values: pa.Array) -> float:
    values = values.slice(0, 10_000).drop_null()
    return pc.sum(pc.match_substring_regex(values, _ASIN)).as_py() / max(1, len(values))


def _may_be_ids(values: pa.Array) -> bool:
    """Whether some values are seen twice, and are no times and no decimal numbers."""
    some = values.slice(0, 10_000).drop_null()
    form = time_form(some)
    decimal = pc.sum(pc.match_substring_regex(some, r"^-?\d+\.\d*[1-9]\d*$")).as_py() or 0
    return (
        1 < num_distinct(values) < max(len(values), FEW_ROWS)
        and decimal < 0.5 * len(some)
        and (form is None or form.format.startswith("epoch") or form.pattern == "yyyyMMdd")
    )


def follows(source: Source, name: str, item: str) -> bool:
    """Whether each item has one value of the column, and the column has fewer values than there are items."""
    pairs = pa.table({"item": source.columns[item], "value": source.columns[name]}).slice(0, 100_000)
    apart = pairs.group_by("item").aggregate([("value", "count_distinct")])
    single = pc.mean(pc.equal(apart["value_count_distinct"], 1)).as_py() or 0
    return single > 0.95 and num_distinct(source.columns[name]) < num_distinct(source.columns[item])

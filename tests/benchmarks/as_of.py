"""A shop as it was at the end of an earlier day, cut from later histories, and what its users did next."""

from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from kdlib.config.features import SplitConfig
from kdlib.data.windows import EvaluationRows, evaluation_rows, list_array, ragged
from kdlib.store import tables

LISTS = ("item_indices", "event_types", "event_times", "session_numbers")
"""The columns with an entry for each interaction."""


class Cut(NamedTuple):
    """The shop at the end of a day."""

    histories: pa.Table
    """Rows of `tables.HISTORIES` of the users with events. Items are numbered among the known ones."""
    known: np.ndarray
    """int64 [items], ascending: the items that occur by then, as the final vocabulary numbers them."""


def midnight(day: date) -> np.datetime64:
    """The start of a day."""
    return np.datetime64(day, "us")


def cut_at(histories: pa.Table, day: date, split: SplitConfig) -> Cut:
    """The histories as they were at the end of a day, with the split's days counted back from it.

    Args:
      histories: rows of `tables.HISTORIES` of a later day.
      day: the last day that counts.
      split: of kind `time`.
    """
    flat = {name: ragged(histories[name]) for name in LISTS}
    offsets, times = flat["item_indices"][1], flat["event_times"][0].astype("datetime64[us]")
    owners = np.repeat(np.arange(len(histories)), np.diff(offsets))

    def before(moment: date) -> np.ndarray:
        return np.bincount(owners[times < midnight(moment)], minlength=len(histories))

    total, kept = before(day + timedelta(days=1)), times < midnight(day + timedelta(days=1))
    first_test = day - timedelta(days=split.test_days - 1)
    num_train, untested = before(first_test - timedelta(days=split.validation_days)), before(first_test)
    known, flat["item_indices"] = np.unique(flat["item_indices"][0][kept]), flat["item_indices"]
    columns: dict[str, Any] = {name: histories[name].combine_chunks() for name in ("user_id", "user_values")}
    for name in LISTS:
        values = flat[name][0][kept]
        values = np.searchsorted(known, values) if name == "item_indices" else values
        columns[name] = list_array(values, total, tables.HISTORIES.schema.field(name).type.value_type)
    columns["num_train"] = pa.array(num_train, pa.int32())
    validates, tests = (num_train > 0) & (num_train < untested), (untested > 0) & (untested < total)
    columns["validation_position"] = pa.array(num_train, pa.int32(), mask=~validates)
    columns["test_position"] = pa.array(untested, pa.int32(), mask=~tests)
    return Cut(pa.table(columns, schema=tables.HISTORIES.schema).filter(pa.array(total > 0)), known)


def what_follows(histories: pa.Table, cut: Cut, day: date, days: int) -> tuple[EvaluationRows, int]:
    """Each user's history, with the first known item that is new to the user in the days after it as the target.

    Returns the rows, and the number of events of unknown items that were passed over.
    """
    prefixes = {row["user_id"]: row for row in cut.histories.to_pylist()}
    start, end = (midnight(day + timedelta(days=number)) for number in (1, 1 + days))
    index = {item: number for number, item in enumerate(cut.known.tolist())}
    found, unknown = [], 0
    for row in histories.to_pylist():
        prefix = prefixes.get(row["user_id"])
        if prefix is None:
            continue
        length = len(prefix["item_indices"])
        seen = set(row["item_indices"][:length])
        for place in range(length, len(row["item_indices"])):
            moment, item = (
                np.datetime64(row["event_times"][place].replace(tzinfo=None), "us"),
                row["item_indices"][place],
            )
            if not start <= moment < end:
                break
            unknown += item not in index
            if item in index and item not in seen:
                own = {name: [*prefix[name], row[name][place]] for name in LISTS}
                own["item_indices"][-1] = index[item]
                found.append(prefix | own | {"test_position": length})
                break
    return evaluation_rows(
        pa.Table.from_pylist(found, schema=tables.HISTORIES.schema), position_column="test_position"
    ), unknown

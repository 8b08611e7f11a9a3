"""An exposure log: who saw which variant, and what came of it. The rows of each user are added up.

The variant was drawn for the user, and a user's exposures are not independent. So the user is the unit of all estimates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.onboarding.arrow import pc
from kdlib.onboarding.files import File, listing, open_file, open_stream
from kdlib.onboarding.forms import Form, form_of
from kdlib.onboarding.sample import trimmed

EXPOSURES = "exposures"
"""The size in a metric `clicks/exposures`: the number of rows, unless the log has a column of this name."""
_BLOCK = 8 << 20
"""Bytes of text that are read at once."""


@dataclass(frozen=True)
class Metric:
    """A number to compare."""

    outcome: str
    """Column to add up: clicks, purchases, revenue."""
    size: str | None = None
    """Column whose sum divides the outcome's, or `exposures`. None: the metric is a mean over users."""

    @classmethod
    def of(cls, text: str) -> "Metric":
        """From `revenue` or `clicks/exposures`."""
        outcome, _, size = text.partition("/")
        return cls(outcome, size or None)

    @property
    def name(self) -> str:
        """As a person reads it."""
        return f"{self.outcome} / {self.size or 'user'}"


@dataclass(frozen=True)
class Columns:
    """Names of the log's columns. None: the log does not have it."""

    user: str
    variant: str | None = None
    before: str | None = None
    """What is known of each user from before the test, as a number."""
    propensity: str | None = None
    """Probability with which the shown list or item was chosen."""
    target: str | None = None
    """Probability with which the policy to judge would choose it. Given if and only if `propensity` is."""


@dataclass(frozen=True)
class Log:
    """An exposure log, added up: one place in each array for each user and variant that occur together."""

    users: pa.Array
    variants: pa.Array
    """Null where the log does not say."""
    sums: Mapping[str, NDArray]
    """Column → float64. `rows`: number of rows. With propensities also `weight` and `weighted OUTCOME`."""
    nameless: int
    """Rows without a user, which are left out."""


VariantOf = Callable[[pa.Array], pa.Array]
"""Users → their variants."""


def names_of(path: str) -> tuple[str, ...]:
    """The names of the log's columns, as the first file has them.

    Raises:
      InputError: the path names no file, or the file cannot be read.
    """
    return form_of(listing(path).files[0]).names


def read_log(path: str, columns: Columns, metrics: Sequence[Metric], *, variant_of: VariantOf | None = None) -> Log:
    """Read an exposure log and add it up.

    Args:
      path: Parquet, CSV or JSON lines: a file, a folder, a pattern or a URL.
      columns: the names of its columns.
      metrics: what to add up.
      variant_of: where the log has no column for the variant.

    Raises:
      InputError: the path names no file, a file cannot be read, a column is missing, or a value is impossible.
    """
    files = listing(path)
    if files.format:
        raise InputError(f"{path} is a table of {files.format}, expected files. Export the log as Parquet files")
    return _log(
        _added_up(batch, columns, metrics, variant_of, where=file.path)
        for file in files.files
        for batch in _batches(file, _needed(columns, metrics))
    )


def add_up(table: pa.Table, columns: Columns, metrics: Sequence[Metric]) -> Log:
    """The same for a table in memory, with text as users and variants, and numbers in the other columns.

    Raises:
      InputError: a value is impossible.
    """
    return _log([_added_up(table, columns, metrics, None, where="the table")])


def _needed(columns: Columns, metrics: Sequence[Metric]) -> dict[str, pa.DataType]:
    """Column → the type in which it is read.

    Raises:
      InputError: a column is to be text and a number.
    """
    texts = [columns.user, *([columns.variant] if columns.variant else [])]
    numbers = [name for metric in metrics for name in (metric.outcome, metric.size)]
    numbers += [columns.before, columns.propensity, columns.target]
    if both := set(texts) & set(numbers):
        raise InputError(f"column {both.pop()} is named as a user or a variant, and as a number. Name another column")
    return dict.fromkeys(texts, pa.string()) | {name: pa.float64() for name in numbers if name}


def _batches(file: File, needed: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """The needed columns of a file, part by part."""
    form = form_of(file)
    if form.format not in READERS:
        raise InputError(f"{file.path} is a file of {form.format}, expected Parquet, CSV or JSON lines. Convert it")
    found = {name: type_ for name, type_ in needed.items() if name in form.names or name != EXPOSURES}
    if missing := [name for name in found if name not in form.names]:
        raise InputError(
            f"{file.path} has no column {missing[0]}, found {', '.join(form.names)}. Name the right column with --metric"
            " or --column"
        )
    try:
        for batch in READERS[form.format](file, form, list(found)):
            yield pa.table({name: pc.cast(batch[name], type_) for name, type_ in found.items()})
    except (OSError, ValueError, pa.ArrowException) as error:
        texts = [name for name, type_ in found.items() if type_ == pa.string()]
        raise InputError(
            f"cannot read {', '.join(found)} of {file.path}: {str(error).splitlines()[0]}. Expected text in"
            f" {' and '.join(texts)}, and numbers in the other columns"
        ) from None


def _parquet(file: File, _: Form, names: list[str]) -> Iterator[pa.Table]:
    with open_file(file) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(1 << 18, columns=names):
            yield pa.Table.from_batches([batch])


def _csv(file: File, form: Form, names: list[str]) -> Iterator[pa.Table]:
    named = pacsv.ReadOptions(column_names=list(form.names), skip_rows=int(form.first_line_names), block_size=_BLOCK)
    as_text = pacsv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),  # 007 and NA may be users
        strings_can_be_null=True,
        null_values=[""],
    )
    with open_stream(file) as stream:
        for batch in pacsv.open_csv(stream, named, pacsv.ParseOptions(delimiter=form.delimiter), as_text):
            yield pa.Table.from_batches([batch])


def _json(file: File, _: Form, names: list[str]) -> Iterator[pa.Table]:
    with open_stream(file) as stream:
        yield pajson.read_json(stream, pajson.ReadOptions(block_size=_BLOCK)).select(names)


READERS = {"parquet": _parquet, "csv": _csv, "jsonl": _json}
"""Format → reader of some columns of a file."""


def _added_up(
    batch: pa.Table, columns: Columns, metrics: Sequence[Metric], variant_of: VariantOf | None, *, where: str
) -> tuple[pa.Table, int]:
    """One row for each user and variant of a batch, with all sums; and the number of rows without a user."""
    users = trimmed(batch[columns.user].combine_chunks())
    known = users.is_valid()
    batch, users = batch.filter(known), users.filter(known)
    if columns.variant:
        variants = trimmed(batch[columns.variant].combine_chunks())
    else:
        variants = variant_of(users) if variant_of else pa.nulls(len(users), pa.string())
    sums = {"rows": np.ones(len(users))}
    for name, type_ in _needed(columns, metrics).items():
        if type_ == pa.float64() and name in batch.column_names:
            sums[name] = _numbers(batch[name], name, users, where)
    if columns.propensity and columns.target:
        weight = _weights(sums, columns.propensity, columns.target, users, where)
        sums |= {f"weighted {metric.outcome}": weight * sums[metric.outcome] for metric in metrics}
        sums["weight"] = weight
    return _grouped(pa.table({"user": users, "variant": variants, **sums})), known.false_count


def _numbers(values: pa.ChunkedArray, name: str, users: pa.Array, where: str) -> NDArray:
    numbers = values.to_numpy()  # null becomes NaN
    if len(wrong := np.flatnonzero(~np.isfinite(numbers))):
        raise InputError(
            f"{where}: column {name} has {len(wrong):,} values that are missing or infinite, the first of user"
            f" {users[int(wrong[0])]}. Write a number in each row, and 0 where nothing came of an exposure"
        )
    return numbers


def _weights(numbers: Mapping[str, NDArray], propensity: str, target: str, users: pa.Array, where: str) -> NDArray:
    """How much more likely the policy to judge would choose what was shown: float64 [rows]."""
    logged, wanted = numbers[propensity], numbers[target]
    for name, values, good, expected in (
        (propensity, logged, (logged > 0) & (logged <= 1), "above 0, up to 1: what was shown had a chance"),
        (target, wanted, (wanted >= 0) & (wanted <= 1), "from 0 to 1"),
    ):
        if len(wrong := np.flatnonzero(~good)):
            raise InputError(
                f"{where}: column {name} has {len(wrong):,} values that are no probability of a shown list or item, the"
                f" first {values[wrong[0]]:g} of user {users[int(wrong[0])]}. Expected numbers {expected}"
            )
    return wanted / logged


def _grouped(table: pa.Table) -> pa.Table:
    """One row for each user and variant."""
    sums = [name for name in table.column_names if name not in ("user", "variant")]
    found = table.group_by(["user", "variant"]).aggregate([(name, "sum") for name in sums])
    return found.select(["user", "variant", *(f"{name}_sum" for name in sums)]).rename_columns(table.column_names)


def _log(parts: Iterator[tuple[pa.Table, int]] | list[tuple[pa.Table, int]]) -> Log:
    tables, nameless = zip(*parts, strict=True)
    table = _grouped(pa.concat_tables(tables))
    sums = {name: table[name].to_numpy() for name in table.column_names[2:]}
    return Log(table["user"].combine_chunks(), table["variant"].combine_chunks(), sums, sum(nameless))

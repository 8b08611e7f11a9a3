"""Checks of a written table RECOMMENDATIONS, row by row."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.errors import ContractError
from kdlib.inference.explain import check_reasons


def check_recommendations(
    folder: Path,
    histories: Path,
    *,
    k: int,
    because: int,
    unavailable: frozenset[str],
    item_ids: pa.Array,
    variants: frozenset[str] = frozenset(),
) -> dict[str, int]:
    """Check a written table row by row. Returns the number of users by source (`model`, `popular`).

    Holds one batch of each table at a time.

    Args:
      folder: the RECOMMENDATIONS files, with rows in the order of the histories.
      histories: the HISTORIES files of the same users.
      k: longest list.
      because: most reasons for a recommended item; 0: the table has no reasons.
      unavailable: item ids that must not be recommended.
      item_ids: string [items], in index order.
      variants: the variants of the A/B test; none: the column must be null.

    Raises:
      ContractError: a user is missing, extra, repeated or out of order. Or a list is too long, repeats an item, holds an
        unavailable item or has a score that is not finite. Or a user has no variant, or an unknown one. Or `check_reasons`
        finds a fault.
    """
    _check_users(folder, histories)
    num_users = {"model": 0, "popular": 0}
    columns = ["item_ids", "scores", "source", "because_item_ids", "variant"]
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            _check_lists(batch, k, unavailable, file)
            if not because and batch["because_item_ids"].null_count < len(batch):
                raise ContractError(f"table recommendations: {file} has reasons, but recommend.because is 0")
            if wrong := set(batch["variant"].unique().to_pylist()) - (variants or {None}):
                raise ContractError(
                    f"table recommendations: {file} has the variant {wrong.pop()}, expected"
                    f" {', '.join(sorted(variants)) or 'none, because the run config has no section experiment'}"
                )
            for count in batch["source"].value_counts().to_pylist():
                num_users[count["values"]] += count["counts"]
    if because:
        check_reasons(folder, histories, because=because, item_ids=item_ids)
    return num_users


def _check_users(folder: Path, histories: Path) -> None:
    """Compare the users row by row. Histories are sorted by user, so a repeated user stands in neighbouring rows."""
    before = None
    for row, (found, expected) in enumerate(zip_longest(_user_ids(folder), _user_ids(histories))):
        if found != expected or found == before:
            raise ContractError(
                "table recommendations must have each user of the histories exactly once, in their order. In row"
                f" {row}, after {_named(before)}, it has {_named(found)} and the histories have {_named(expected)}"
            )
        before = found


def _named(user: str | None) -> str:
    """The form in which `distilrec forget` finds a user id in a log line."""
    return "no user" if user is None else f"user {user}"


def _user_ids(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=["user_id"]):
            yield from batch["user_id"].to_pylist()


def _check_lists(batch: pa.RecordBatch, k: int, unavailable: frozenset[str], file: Path) -> None:
    lengths = batch["item_ids"].value_lengths().to_numpy()
    if lengths.max(initial=0) > k or not np.array_equal(lengths, batch["scores"].value_lengths().to_numpy()):
        raise ContractError(
            f"table recommendations: {file} has a list of more than {k} items, or a list without one score per item"
        )
    codes = batch["item_ids"].flatten().dictionary_encode()
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if len(np.unique(rows * len(codes.dictionary) + codes.indices.to_numpy())) < len(rows):
        raise ContractError(f"table recommendations: {file} has a list with the same item twice")
    if not np.isfinite(batch["scores"].flatten().to_numpy()).all():
        raise ContractError(f"table recommendations: {file} has a score that is not a finite number")
    if wrong := unavailable.intersection(codes.dictionary.to_pylist()):
        raise ContractError(f"table recommendations: {file} recommends {min(wrong)}, which is not available")

"""The calls for a notebook: read a run's tables, ask its student, measure your own scores beside the student's.

    from kdlib import notebook as distilrec

    run = distilrec.load_run("my.yaml")
    distilrec.read_table(run, "recommendations").to_pandas()
    student = distilrec.Student(run)
    student.recommend([["red-shirt", "belt"]], k=5).to_pandas()

No call starts Spark or Ray, and no call changes a run. Tables are Arrow tables. Some losses of the library are here, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from kdlib.config.data import EVENT_TYPES
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.data.windows import EvaluationRows, evaluation_rows, read_evaluation_histories
from kdlib.errors import InputError
from kdlib.inference.ranks import Ranked, ranks_of_models, ranks_of_scores
from kdlib.inference.recommender import Recommender
from kdlib.inference.topk import exact_topk
from kdlib.losses.dispatch import cross_entropy_and_kl as cross_entropy_and_kl
from kdlib.losses.distillation import kl_divergence as kl_divergence
from kdlib.losses.distillation import pooled_log_probs as pooled_log_probs
from kdlib.losses.ranking import cross_entropy as cross_entropy
from kdlib.losses.scored import Scored as Scored
from kdlib.losses.scored import Teachers as Teachers
from kdlib.metrics.table import metrics_table
from kdlib.privacy.pseudonyms import pseudonym, read_key
from kdlib.release import promotions
from kdlib.store import partitions
from kdlib.store.days import day_end
from kdlib.store.format import check_format
from kdlib.store.mirror import attach
from kdlib.store.tables import HISTORIES, TIME
from kdlib.store.working_copy import refresh


@dataclass(frozen=True)
class Run:
    """A finished run. All calls read these versions, even after a newer run has replaced them."""

    config: RunConfig
    day: str
    """The run's date, YYYY-MM-DD."""
    versions: Mapping[str, str]
    """Table or model → version."""

    def folder(self, name: str) -> Path:
        """The folder of a table's Parquet files, for DuckDB, Polars and Spark; or of a model (`models/student`).

        Raises:
          InputError: the run does not have this table or model, or its files are gone.
        """
        place = f"the run of {self.day} in {self.config.root}"
        if name not in self.versions:
            raise InputError(f"{place} has no {name!r}. It has {', '.join(sorted(self.versions))}")
        folder = partitions.version_data(self.config.root, name, self.day, self.versions[name])
        if not folder.is_dir():
            raise InputError(f"the files of {name} of {place} were removed. Load a newer run with load_run(…)")
        return folder


def load_run(path: str | Path, *, ds: str | date | None = None, overrides: Sequence[str] = ()) -> Run:
    """The run in use, or the run of a date.

    Args:
      path: the run config, a YAML file.
      ds: the date. None: the run in use; the file's `ds` does not count.
      overrides: texts `section.key=value`, as for `--set` on the command line.

    Raises:
      ConfigError: the run config is missing or wrong.
      InputError: no run is in use, or the date has no tables.
    """
    config = load_config(path, overrides=tuple(overrides), ds=None if ds is None else str(ds))
    if config.store:
        attach(config.root, config.store)
        refresh(config.root)
    check_format(config.root)
    again = f"Run `distilrec nightly --config {path}` first"
    used = promotions.current(config.root) if ds is None else None
    if ds is None and used is None:
        raise InputError(
            f"no run is in use in {config.root}. {again}, or give ds='YYYY-MM-DD' for a run that is not in use"
        )
    day = used.ds if used else config.day
    names = partitions.published_on(config.root, day)
    if not names:
        raise InputError(f"no tables of {day} in {config.root}. {again}, with --ds {day}")
    found = {name: partitions.manifest_of(config.root, name, day).version for name in names}
    return Run(config, day, found | (used.versions if used else {}))


def tables(run: Run) -> dict[str, int]:
    """The tables of a run: name → number of rows."""
    manifests = {
        name: partitions.version_manifest(run.config.root, name, run.day, version)
        for name, version in sorted(run.versions.items())
    }
    return {name: manifest.rows for name, manifest in manifests.items() if manifest.rows is not None}


def read_table(run: Run, name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table. `kdlib.store.tables` has the columns, types and grain of each.

    Raises:
      InputError: the run does not have this table. The text lists the tables that it has.
    """
    return pq.read_table(run.folder(name), columns=None if columns is None else list(columns))


def metrics(run: Run) -> pa.Table:
    """What `evaluate` measured in the run: a row for each `model` and `metric`, with a 95% interval over users."""
    return read_table(run, "metrics")


def history(run: Run, user_id: str) -> pa.Table:
    """A user's interactions, oldest first: `event_time` (UTC), `event_type`, `item_id`, `title`.

    Args:
      run: see `load_run`.
      user_id: the shop's own id, even if the tables have pseudonyms.

    Raises:
      InputError: the run does not have this user.
    """
    row = _row_of(run, "histories", user_id)
    items = read_table(run, "item_vocabulary", columns=["item_index", "item_id", "title"]).sort_by("item_index")
    items = items.take(pa.array(row["item_indices"], pa.int64()))
    times = pa.array(row["event_times"], TIME)
    types = pa.array([EVENT_TYPES[number] for number in row["event_types"]], pa.string())
    return pa.table({"event_time": times, "event_type": types, "item_id": items["item_id"], "title": items["title"]})


def recommend(run: Run, user_id: str) -> pa.Table:
    """The list that the run made for a user, best first: `rank` from 1, `item_id`, `title`, `score`, `because`.

    `because` has the ids of the history items that raised the score, or null if the run made no reasons. For the arguments
    and errors see `history`.
    """
    row = _row_of(run, "recommendations", user_id)
    because = row.get("because_item_ids") or [None] * len(row["item_ids"])
    ranked = _ranked(run, [row["item_ids"]], pa.array(row["scores"], pa.float32()))
    return ranked.append_column("because", pa.array(because, pa.list_(pa.string())))


class Student:
    """The student of a run: lists for histories, and similar items.

    Args:
      run: see `load_run`.
      model: `student`, `refit` or `control`, or the name of a teacher that distilrec trained. None: the student that made
        the run's lists.

    Raises:
      InputError: the run does not have this model.
      ModelError: the model's files are damaged, or the model is not a sequence model.
    """

    def __init__(self, run: Run, model: str | None = None) -> None:
        self.run = run
        if model is None:
            version, root = run.versions.get("recommendations"), run.config.root
            lists = version and partitions.version_manifest(root, "recommendations", run.day, version)
            model = promotions.student_of(lists or None).removeprefix("models/")
        self.model = model
        self.recommender = Recommender(
            *(str(run.folder(name)) for name in (f"models/{model}", "item_vocabulary", "item_statistics")),
            k=10,
            because=0,
            item_block=run.config.recommend.item_block,
            generated_at=day_end(date.fromisoformat(run.day), run.config.features.time_zone),
            threads=torch.get_num_threads(),
        )
        self._index = {item: index for index, item in enumerate(self.recommender.item_ids.to_pylist())}

    def recommend(self, histories: Sequence[Sequence[str]] | pa.Table, *, k: int = 10) -> pa.Table:
        """The k items with the highest scores for each history, of all items that are available and not in the history.

        Args:
          histories: item ids, oldest first, one list a user. The model takes them as views of one session, and knows no
            features of the users. Or rows of the table `histories`, which have the type, time and session of each event and
            the users' features.
          k: length of the lists; a list is shorter if fewer items are left.

        Returns:
          `user_id` (for lists: their number, from 0), `rank` from 1, `item_id`, `title`, `score` (a logit), `source`. Where
          the model knows no item of the history, `source` is `popular` and the score is the item's share of the training
          interactions.

        Raises:
          InputError: an item id is unknown.
        """
        self.recommender.k = k
        found = self.recommender(histories if isinstance(histories, pa.Table) else self._as_rows(histories))
        lists = found["item_ids"].to_pylist()
        of_user = found.take(pa.array(np.repeat(np.arange(len(lists)), [len(one) for one in lists])))
        ranked = _ranked(self.run, lists, found["scores"].combine_chunks().flatten())
        return ranked.add_column(0, "user_id", of_user["user_id"]).append_column("source", of_user["source"])

    def similar(self, item_id: str, *, k: int = 10) -> pa.Table:
        """The k available items whose vectors are nearest in direction: `rank`, `item_id`, `title`, `score` (the cosine).

        Raises:
          InputError: the item is unknown, or newer than the model.
        """
        vectors_VW, index = F.normalize(self.recommender.model.head()[0].detach(), dim=1), self._index_of(item_id)
        if index >= len(vectors_VW):
            raise InputError(f"item {item_id!r} is newer than the model. Load a later run, whose model knows it")
        scores_1K, found_1K = exact_topk(
            vectors_VW[index, None],
            vectors_VW,
            k=k,
            excluded=(torch.tensor([index]), torch.tensor([0, 1])),
            allowed_V=self.recommender.rules[None].allowed_V,
        )
        found = found_1K[found_1K >= 0]
        item_ids = self.recommender.item_ids.take(pa.array(found.numpy()))
        return _ranked(self.run, [item_ids.to_pylist()], pa.array(scores_1K[0, : len(found)].numpy()))

    def _as_rows(self, histories: Sequence[Sequence[str]]) -> pa.Table:
        """Lists of item ids as rows of `tables.HISTORIES`, as far as the recommender reads them."""
        if any(isinstance(one, str) for one in histories):
            raise InputError(f"histories are lists of item ids, one a user: [[…], […]]. Found {histories!r:.60}")
        zeros = [[0] * len(one) for one in histories]
        indices = [[self._index_of(item) for item in one] for one in histories]
        columns = {"item_indices": indices, "event_types": zeros, "event_times": zeros, "session_numbers": zeros}
        arrays = {name: pa.array(lists, HISTORIES.schema.field(name).type) for name, lists in columns.items()}
        return pa.table({"user_id": pa.array(map(str, range(len(indices))), pa.string()), **arrays})

    def _index_of(self, item_id: str) -> int:
        if (index := self._index.get(str(item_id))) is None:
            raise InputError(
                f"no item {item_id!r} in the run of {self.run.day}. read_table(run, 'item_vocabulary') has all items"
            )
        return index


Score = Callable[[list[list[int]]], Any]
"""A scorer of your own: item indices of histories, oldest first → float [histories, items], higher is better.

Item i is the item with the `item_index` i in the table `item_vocabulary`.
"""


def evaluate(run: Run, models: Mapping[str, Student | Score], *, histories: pa.Table | None = None) -> pa.Table:
    """Rank each test user's next item among all items that are new to the user, as the stage `evaluate` does.

    Args:
      run: gives the test users, `evaluation.k`, `evaluation.bootstrap_samples` and `seed`.
      models: name → student or scorer. A scorer gets the last `training.max_length` items of each history.
      histories: rows of the table `histories`, for a part of the users. None: the run's test users.

    Returns:
      A table like `metrics`: `accuracy@1`, `hr@k`, `recall@k`, `ndcg@k` and `mrr@k` of each model, with 95% intervals over
      users. The model `a - b` is the difference of the first model and another one, user by user.

    Raises:
      InputError: there is no test user, a student has trained on the test items (`refit`), or scores have another shape,
        NaN or +inf. −inf rules an item out.
    """
    settings, place = run.config.evaluation, "test_position"
    if histories is None:
        files = sorted(map(str, run.folder("histories").glob("*.parquet")))
        chosen = read_evaluation_histories(files, position_column=place, max_users=settings.max_users)
    else:
        chosen = histories
    rows = evaluation_rows(chosen.sort_by("user_id"), position_column=place, with_marks=True)
    if not len(rows):
        raise InputError("no user of these histories has a test item that is new to the user. Give other histories")
    counts_V = read_table(run, "item_statistics").sort_by("item_index")["num_train"].to_numpy().astype(np.float64)
    ranks = {}
    for name, model in models.items():
        if isinstance(model, Student):
            if model.model == "refit":
                raise InputError(
                    f"{name} is the student that was trained again on all days, so it has seen the test items. Give"
                    " Student(run, 'student'), the student before that"
                )
            one, cpu = [model.recommender.model], torch.device("cpu")
            found = ranks_of_models(one, [1.0], rows, device=cpu, num_items=len(counts_V), popularity_V=counts_V)
        else:
            found = _ranks_of_scorer(name, model, rows, len(counts_V), run.config.training.max_length)
        ranks[name] = found.ranks
    pairs = [(next(iter(models)), other) for other in list(models)[1:]]
    return metrics_table(ranks, settings.k, pairs=pairs, samples=settings.bootstrap_samples, seed=run.config.seed)


def _ranks_of_scorer(name: str, score: Score, rows: EvaluationRows, num_items: int, max_length: int) -> Ranked:
    def scores(which: NDArray) -> torch.Tensor:
        asked = [rows.items[rows.offsets[row] : rows.offsets[row + 1]][-max_length:].tolist() for row in which]
        found, shape = np.array(score(asked), np.float32), (len(asked), num_items)
        if found.shape != shape or not (found < np.inf).all():
            raise InputError(
                f"{name} must give scores of the shape {shape} (histories, items) without NaN and +inf. Found the shape"
                f" {found.shape} with {np.count_nonzero(~(found < np.inf))} of them"
            )
        return torch.from_numpy(found)

    return ranks_of_scores(scores, rows, num_items=num_items, device=torch.device("cpu"))


def _row_of(run: Run, table: str, user_id: str) -> dict[str, Any]:
    key = run.config.privacy.key
    named = str(user_id) if key is None else pseudonym(read_key(key), str(user_id))
    rows = pq.read_table(run.folder(table), filters=[("user_id", "=", named)]).to_pylist()
    if not rows:
        some = read_table(run, table, columns=["user_id"])["user_id"][:3].to_pylist()
        known = f"It has {', '.join(some)} and others" if key is None else "Give the shop's own id, not a pseudonym"
        raise InputError(f"no user {user_id!r} in {table} of the run of {run.day}. {known}")
    return rows[0]


def _ranked(run: Run, lists: Sequence[Sequence[str]], scores: pa.Array) -> pa.Table:
    """Lists of item ids, one after another, as rows with ranks and titles."""
    item_ids = pa.array([item for one in lists for item in one], pa.string())
    wanted = pc.field("item_id").isin(item_ids)
    known = pq.read_table(run.folder("item_vocabulary"), columns=["item_id", "title"], filters=wanted)
    titles = dict(zip(known["item_id"].to_pylist(), known["title"].to_pylist(), strict=True))
    ranks = [rank for one in lists for rank in range(1, len(one) + 1)]
    return pa.table(
        {
            "rank": pa.array(ranks, pa.int32()),
            "item_id": item_ids,
            "title": pa.array(map(titles.get, item_ids.to_pylist()), pa.string()),
            "score": scores,
        }
    )

"""Promoted runs of small shops, made without an engine, for the tests of the server."""

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdlib.config.run import RunConfig
from kdlib.inference.recommender import Recommender
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.release import promotions
from kdlib.serving.app import Server
from kdlib.serving.figures import Figures
from kdlib.serving.follow import Follower
from kdlib.serving.made_with import made_with
from kdlib.serving.night import Night
from kdlib.serving.requests import Request, parse
from kdlib.serving.stock import StockFile
from kdlib.store import partitions
from kdlib.store.days import day_end
from tests.explore.made_shop import put

DS = "2026-11-22"
NUM_USERS = 40
UNAVAILABLE = 7
COUNTRIES = ("de", "fr", None)


@dataclass(frozen=True)
class Made:
    """What a run of the shop is made of."""

    root: Path
    ds: str = DS
    kind: Any = "gru"
    items: str = "item"
    """The beginning of the items' ids."""
    num_items: int = 60
    dim: int = 8
    shape: dict[str, Any] = field(default_factory=dict)
    """More arguments of the student, over those of `_put_student`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """More sections of the run config."""
    recommend: dict[str, Any] = field(default_factory=dict)
    user_columns: bool = False

    @property
    def config(self) -> RunConfig:
        recommend = {"k": 5, "because": 2} | self.recommend
        document = {"name": "shop", "ds": self.ds, "output_dir": str(self.root), "input": {"simulate": {}}}
        return RunConfig.model_validate(document | {"recommend": recommend} | self.settings)

    @property
    def item_ids(self) -> list[str]:
        return [f"{self.items}{index:03}" for index in range(self.num_items)]


def user_id(number: int) -> str:
    return f"user{number:04}"


def history(number: int, num_items: int = 60) -> dict[str, Any]:
    """User n has n mod 8 interactions, two in each session. Every eighth user has none."""
    length = number % 8
    start = datetime(2026, 11, 10, 12, 30, tzinfo=UTC)
    times = [start + timedelta(days=step // 2, minutes=10 * (step % 2)) for step in range(length)]
    return {
        "user_id": user_id(number),
        "item_indices": [(number * 7 + step * 13) % num_items for step in range(length)],
        "event_types": [(number + step) % 4 for step in range(length)],
        "event_times": times,
        "session_numbers": [step // 2 for step in range(length)],
        "num_train": length,
        "user_values": [],
    }


def publish(made: Made) -> dict[str, str]:
    """Publish the tables and the student of a run; returns their versions. The run is not in use yet."""
    root, ds, config = made.root, made.ds, made.config
    histories = [history(number, made.num_items) for number in range(NUM_USERS)]
    if made.user_columns:
        histories = [row | {"user_values": [n % 3]} for n, row in enumerate(histories)]
    put(root, "histories", ds, histories)
    vocabulary = [
        {"item_index": n, "item_id": item, "title": item, "available": n != UNAVAILABLE, "in_stock": True}
        | {"first_seen": "2026-11-20" if n % 5 == 0 else "2026-01-01"}
        for n, item in enumerate(made.item_ids)
    ]
    codings = [{"feature": "country", "kind": "category", "codes": ["de", "fr"]}] if made.user_columns else []
    put(root, "item_vocabulary", ds, vocabulary, user_values=codings)
    counts = ("num_interactions", "num_users", "num_purchases", "num_train", "num_in_windows")
    put(
        root,
        "item_statistics",
        ds,
        [{"item_index": n} | dict.fromkeys(counts, 10**6 - n) for n in range(made.num_items)],
    )
    brands = [{"item_index": n, "feature": "brand", "values": [f"b{n % 4}"]} for n in range(made.num_items)]
    put(root, "item_features", ds, brands)
    people = [{"user_id": user_id(n), "feature": "country", "values": [COUNTRIES[n % 3]]} for n in range(NUM_USERS)]
    put(root, "user_features", ds, [one for one in people if one["values"] != [None]])
    _put_student(made)
    put(root, "recommendations", ds, _lists(made, histories), made_with=made_with(config))
    return {name: partitions.manifest_of(root, name, ds).version for name in partitions.published_on(root, ds)}


def _put_student(made: Made) -> None:
    """An untrained model with large weights, whose scores differ clearly. Each date has other weights."""
    torch.manual_seed(date.fromisoformat(made.ds).toordinal())
    columns = {"country": 0} if made.user_columns else None
    shape: dict[str, Any] = {
        "kind": made.kind,
        "dim": made.dim,
        "heads": 2 if made.kind == "transformer" else 1,
        "session_flag": True,
        "inputs": ["event_type", "time_gap"],
        "user_columns": columns,
        "max_length": 6,
    }
    model = SequenceModel(num_items=made.num_items, **shape | made.shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    facts = {"vocabulary_hash": vocabulary_hash(made.item_ids), "vocabulary_version": "v1"}
    staging = partitions.new_staging(made.root, "models/student", made.ds)
    save_model(staging, model, model.state_dict(), facts)
    partitions.publish(staging, made.root, "models/student", made.ds, fingerprint="by hand")


def _lists(made: Made, histories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the stage `recommend` writes."""
    config = made.config
    settings, folder = config.recommend, {}
    for name in ("models/student", "item_vocabulary", "item_statistics", "item_features", "user_features", "histories"):
        folder[name] = str(partitions.current(made.root, name, made.ds))
    recommend = Recommender(
        *(folder[name] for name in ("models/student", "item_vocabulary", "item_statistics")),
        k=settings.k,
        because=settings.because,
        item_block=32,
        generated_at=day_end(config.last_day, config.features.time_zone),
        threads=1,
        policy=settings.policy,
        experiment=config.experiment,
        item_features_folder=folder["item_features"] if settings.policy else None,
        user_features_folder=folder["user_features"] if settings.policy else None,
    )
    return recommend(pq.read_table(folder["histories"])).to_pylist()


def promote(made: Made) -> dict[str, str]:
    """Publish a run and put it in use; returns its versions."""
    versions = publish(made)
    promotions.promote(made.root, made.ds, versions)
    return versions


def load(root: Path) -> Night:
    """The run in use."""
    used = promotions.current(root)
    assert used is not None
    return Night(root, used)


def server(root: Path, *, stock: Path | None = None, max_requests: int = 64, warn: Any = print) -> Server:
    """A server without Ray. It looks for a run when its application starts."""
    figures = Figures()
    follower = Follower(
        root,
        lambda used: Night(root, used),
        stock=StockFile(str(stock)) if stock else None,
        figures=figures,
        warn=warn,
    )
    return Server(follower, figures, max_requests=max_requests)


def asked(items: list[str], **more: Any) -> Request:
    """A request with views of some items."""
    return parse(json.dumps({"session": [{"item": item} for item in items]} | more).encode(), now=0)


def events_of(row: dict[str, Any], item_ids: list[str], types: tuple[str, ...]) -> list[dict[str, Any]]:
    """A history as the events of a request."""
    steps = zip(row["item_indices"], row["event_types"], row["event_times"], strict=True)
    return [{"item": item_ids[item], "event_type": types[number], "time": at.isoformat()} for item, number, at in steps]


def table(made: Made) -> list[dict[str, Any]]:
    """The published lists."""
    return pa.Table.to_pylist(pq.read_table(partitions.current(made.root, "recommendations", made.ds)))

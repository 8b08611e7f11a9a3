"""Two promoted runs of a small shop, made without an engine: tables, models, search. Students of both days differ."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F

from kdlib.config.experiment import ExperimentConfig
from kdlib.inference.recommender import Recommender
from kdlib.models.files import save_model, save_rules
from kdlib.models.rules import RuleSettings, SequentialRules
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.privacy.pseudonyms import pseudonym
from kdlib.release import promotions
from kdlib.search.fusion import Weights
from kdlib.search.index import build_index
from kdlib.search.student import QueryEncoder, save_student
from kdlib.store import partitions, search_tables, tables

BEFORE, DS = "2026-11-21", "2026-11-22"
K = 5
NUM_ITEMS, NUM_USERS = 60, 40
UNAVAILABLE = 7
EVIL = '<script>alert(1)</script> & "Söhne" with a title that is far too long for a column of a telephone'
ITEM_IDS = [f"item{index:03}" for index in range(NUM_ITEMS)]
TITLES: list[str | None] = [EVIL, None, *(f"{'Red' if n % 2 else 'Blue'} lamp {n}" for n in range(2, NUM_ITEMS))]
KEY = b"a key of more than sixteen bytes"
FACTS = {"vocabulary_hash": vocabulary_hash(ITEM_IDS), "vocabulary_version": "v1", "vocabulary_items": NUM_ITEMS}


def user_id(number: int) -> str:
    return f"user{number:04}"


def history(number: int) -> dict[str, Any]:
    """User n has n mod 8 interactions, one a day. Every eighth user has none."""
    length = number % 8
    start = datetime(2026, 11, 10, 12, 30, tzinfo=UTC)
    return {
        "user_id": user_id(number),
        "item_indices": [(number * 7 + step * 13) % NUM_ITEMS for step in range(length)],
        "event_types": [step % 4 for step in range(length)],
        "event_times": [start + timedelta(days=step) for step in range(length)],
        "session_numbers": list(range(length)),
        "num_train": length,
        "user_values": [],
    }


def put(root: Path, name: str, ds: str, rows: Sequence[dict[str, Any]], **details: Any) -> None:
    """Publish a table of one file."""
    staging = partitions.new_staging(root, name, ds)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=tables.ALL[name].schema), staging / "part-00000.parquet")
    partitions.publish(staging, root, name, ds, fingerprint="by hand", details=details)


def put_model(root: Path, name: str, ds: str, *, seed: int, kind: Any = "gru", **details: Any) -> None:
    """Publish an untrained model with large weights, whose scores differ clearly."""
    torch.manual_seed(seed)
    model = SequenceModel(num_items=NUM_ITEMS, kind=kind, dim=8, session_flag=True, max_length=6)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    staging = partitions.new_staging(root, name, ds)
    save_model(staging, model, model.state_dict(), FACTS | {"seed": seed})
    partitions.publish(staging, root, name, ds, fingerprint="by hand", details=details)


def put_rules(root: Path, ds: str) -> None:
    """Publish a teacher of rules: item i is followed by i + 1, and by i + 2 half as often."""
    offsets = 2 * torch.arange(NUM_ITEMS + 1)
    followers = torch.stack([(torch.arange(NUM_ITEMS) + step) % NUM_ITEMS for step in (1, 2)], 1).flatten()
    rules = SequentialRules(
        RuleSettings(5, 0.8, 0.3, 0.6, 1.0),
        offsets_V1=offsets,
        consequents_N=followers.int(),
        weights_N=torch.tensor([2.0, 1.0]).repeat(NUM_ITEMS),
        popularity_V=torch.full((NUM_ITEMS,), 1 / NUM_ITEMS),
    )
    staging = partitions.new_staging(root, "models/rules", ds)
    save_rules(staging, rules, FACTS)
    partitions.publish(staging, root, "models/rules", ds, fingerprint="by hand")


def put_search(root: Path, ds: str) -> None:
    """Publish an index that scores by words and histories only, with an untrained student."""
    products = [
        {"product_index": n, "item_id": item, "title": title, "category": "lamps", "description": "It gives light."}
        for n, (item, title) in enumerate(zip(ITEM_IDS, TITLES, strict=True))
    ]
    products = [product | {"available": True} for product in products]
    put(root, "products", ds, products)
    torch.manual_seed(1)
    made = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "bright": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = QueryEncoder(vocabulary=3, width=8, out=6).eval()
    student = partitions.new_staging(root, "models/search_student", ds)
    save_student(student, encoder.options, encoder.state_dict(), made.to_str(), ["bright"], {"teacher": "t"})
    partitions.publish(student, root, "models/search_student", ds, fingerprint="by hand")
    index = partitions.new_staging(root, "search_index", ds)
    table = pa.Table.from_pylist(products, schema=search_tables.PRODUCTS.schema)
    vectors = F.normalize(torch.randn(NUM_ITEMS, 6), dim=1)
    weights = Weights(0.0, 0.0)
    build_index(
        index,
        table,
        vectors,
        language="english",
        weights=weights,
        seed=1,
        facts={"teacher": "t", "history_weight": 5.0},
    )
    partitions.publish(index, root, "search_index", ds, fingerprint="by hand")


def put_lists(root: Path, ds: str) -> None:
    """Publish what the student of the day recommends, as the stage `recommend` does."""
    folders = (str(partitions.current(root, f"{name}", ds)) for name in ("models/student", *_FEATURES))
    histories = pq.read_table(partitions.current(root, "histories", ds))
    recommend = Recommender(
        *folders,
        k=K,
        because=1,
        item_block=32,
        generated_at=datetime.fromisoformat(f"{ds}T23:00:00Z"),
        threads=1,
        experiment=ExperimentConfig(salt="s", variants={"blue": 0.5, "green": 0.5}),
    )
    rows = recommend(histories).to_pylist()
    counts = {source: sum(row["source"] == source for row in rows) for source in ("model", "popular")}
    put(root, "recommendations", ds, rows, users=len(rows), k=K, model_version="m", **counts)


_FEATURES = ("item_vocabulary", "item_statistics")


def put_quality(root: Path, ds: str) -> None:
    """Publish metrics and gates."""
    values = {"student": 0.25, "control": 0.2, "teacher": 0.3, "student - control": 0.05, "popularity": 0.1}
    values |= {"teacher - control": 0.1, "student - popularity": 0.15}
    metrics = [
        {"model": name, "metric": "ndcg@10", "value": value, "low": value - 0.03, "high": value + 0.03, "num_users": 60}
        for name, value in values.items()
    ]
    put(root, "metrics", ds, metrics)
    gate = {"gate": "test_users", "part": "quality", "value": 60.0, "low": 30.0, "status": "passed", "text": "enough"}
    put(root, "gates", ds, [gate])


def put_run(root: Path, ds: str, *, seed: int, pseudonyms: bool = False) -> None:
    """Publish and promote a run."""
    histories = [history(number) for number in range(NUM_USERS)]
    if pseudonyms:
        histories = [row | {"user_id": pseudonym(KEY, row["user_id"])} for row in histories]
    histories.sort(key=lambda row: row["user_id"])
    funnel = {"rows_read": 150, "kept": 140, "duplicate": 5, "quarantined": 5, "reasons": {"bad_time": 5}}
    put(root, "histories", ds, histories, pseudonyms={"check": "c"} if pseudonyms else None, funnel=funnel)
    vocabulary = [
        {
            "item_index": n,
            "item_id": item,
            "title": title,
            "available": n != UNAVAILABLE,
            "in_stock": n != UNAVAILABLE,
            "first_seen": BEFORE,
        }
        for n, (item, title) in enumerate(zip(ITEM_IDS, TITLES, strict=True))
    ]
    put(root, "item_vocabulary", ds, vocabulary)
    counts = ("num_interactions", "num_users", "num_purchases", "num_train", "num_in_windows")
    put(root, "item_statistics", ds, [{"item_index": n} | dict.fromkeys(counts, 1000 + n) for n in range(NUM_ITEMS)])
    sizes = {"teachers": 0.3, "d8": 0.25, "d16": 0.29}
    put_model(root, "models/student", ds, seed=seed, sizes=sizes)
    put_model(root, "models/teacher", ds, seed=seed + 10, kind="transformer")
    put_model(root, "models/control", ds, seed=seed + 20)
    put_rules(root, ds)
    put_quality(root, ds)
    put_lists(root, ds)
    if ds == DS:
        put_search(root, ds)
    versions = {name: partitions.manifest_of(root, name, ds).version for name in partitions.published_on(root, ds)}
    promotions.promote(root, ds, versions)


def put_shop(folder: Path, *, pseudonyms: bool = False) -> Path:
    """Make both runs in `folder/output`; returns the run config."""
    for seed, ds in enumerate((BEFORE, DS)):
        put_run(folder / "output", ds, seed=seed, pseudonyms=pseudonyms)
    config = folder / "run.yaml"
    document: dict[str, Any] = {
        "name": "lamps",
        "ds": DS,
        "output_dir": str(folder / "output"),
        "input": {"simulate": {}},
        "teachers": [{"name": "teacher"}, {"name": "rules", "rules": {}}],
        "distillation": {"targets": "sampled", "temperature": 1.0},
        "recommend": {"k": K, "because": 1},
    }
    if pseudonyms:
        (folder / "key").write_bytes(KEY)
        document["privacy"] = {"key_file": str(folder / "key")}
    config.write_text(yaml.safe_dump(document))
    return config

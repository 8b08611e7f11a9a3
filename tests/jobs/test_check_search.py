"""The gates of product search as a command, on searches published by hand."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F

from kdlib.release import promotions
from kdlib.search.fusion import Weights
from kdlib.search.index import build_index
from kdlib.search.student import QueryEncoder, save_student
from kdlib.search.words import in_first_half
from kdlib.store import partitions, search_tables
from tests.jobs.handmade import DAYS, put, root_of, run

WORDS = [f"thing{number}" for number in range(150)]
ITEMS = [f"p{number:03d}" for number in range(len(WORDS))]
OWN = {word: number for number, word in enumerate(WORDS)}
"""Word → the place of the product that is named by it."""
JUDGING = [word for word in WORDS if not in_first_half(word)]
PAIRS = [word if number % 2 == 0 else f"{WORDS[number - 1]} {word}" for number, word in enumerate(WORDS)]
"""Titles: the second product of a pair also has the word of the first, and matches it less well."""
GOOD, BY_CHANCE = Weights(0.0, 0.0), Weights(9.0, 0.0)
"""By words each query finds its product. The student is untrained, so its vectors find products by chance."""

PutSearch = Callable[..., Path]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The run config of a shop with product search alone."""
    path = tmp_path / "run.yaml"
    catalogue = {"path": "c.csv", "format": "csv", "item": "sku", "title": "name"}
    log = {"path": "s.csv", "format": "csv", "user": "u", "query": "q", "item": "i", "time": {"column": "t"}}
    document = {"name": "small", "output_dir": str(tmp_path / "out"), "search": {}}
    path.write_text(yaml.safe_dump(document | {"input": {"catalogue": catalogue, "searches": log}}))
    return path


@pytest.fixture
def put_search(config: Path) -> PutSearch:
    """Publish all tables of a product search but its gates: one product, one query and one click for each word."""

    def publish(name: str, ds: str, fill: Callable[[Path], object], **details: Any) -> None:
        staging = partitions.new_staging(root_of(config), name, ds)
        fill(staging)
        partitions.publish(staging, root_of(config), name, ds, fingerprint=f"{ds} {details}", details=details)

    def put_search(
        ds: str,
        *,
        weights: Weights = GOOD,
        answered: int = len(WORDS),
        clicked: Mapping[str, int] = OWN,
        sold: Sequence[bool] = (True,) * len(WORDS),
        teacher: str = "t",
        items: Sequence[str] = ITEMS,
        titles: Sequence[str] = WORDS,
    ) -> Path:
        root, logged = root_of(config), len(WORDS)
        products = pa.table(
            {
                "product_index": pa.array(range(len(WORDS)), pa.int32()),
                "item_id": items,
                "title": titles,
                "description": pa.nulls(len(WORDS), pa.string()),
                "category": pa.nulls(len(WORDS), pa.string()),
                "available": sold,
            }
        )
        put(root, "products", ds, products, sold=sold, items=items, titles=titles)
        counts = dict.fromkeys(["num_searches", "num_users", "num_clicks", "num_carts", "num_purchases"], 5)
        queries = [{"query": word, **counts} for word in WORDS]
        put(root, "queries", ds, pa.Table.from_pylist(queries, schema=search_tables.QUERIES.schema))
        clicks = [{"query": word, "item_id": items[place], "weight": 1.0, **counts} for word, place in clicked.items()]
        query_items = pa.Table.from_pylist(clicks, schema=search_tables.QUERY_ITEMS.schema)
        put(root, "query_items", ds, query_items, clicked=clicked, items=items)
        facts: dict[str, Any] = {"teacher": "t"}
        torch.manual_seed(1)

        def student(folder: Path) -> None:
            made = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "thing": 2}, unk_token="[UNK]"))
            made.pre_tokenizer = pre_tokenizers.Whitespace()
            model = QueryEncoder(vocabulary=3, width=8, out=6).eval()
            save_student(
                folder, model.options, model.state_dict(), made.to_str(), ["thing"], facts | {"teacher": teacher}
            )

        def index(folder: Path) -> None:
            vectors = F.normalize(torch.randn(len(WORDS), 6), dim=1)
            build_index(folder, products, vectors, language="english", weights=weights, seed=1, facts=facts)

        publish("models/search_student", ds, student, teacher=teacher)
        about = {"overlap@10": 0.5, "available": sum(sold)}
        publish(
            "search_index", ds, index, weights=[weights.vector, weights.intent], items=items, titles=titles, **about
        )
        rankings = pa.table({"query": WORDS[:answered]})
        made = {"answered": answered, "logged": logged, "milliseconds": 1.0, "milliseconds_p99": 2.0}
        put(root, "search_rankings", ds, rankings, ("search_index",), queries=len(WORDS), **made)
        return root

    return put_search


def in_use(root: Path) -> str | None:
    now = promotions.current(root)
    return now.ds if now else None


def text_of(root: Path, ds: str, gate: str) -> str:
    rows = pq.read_table(partitions.current(root, "search_gates", ds)).to_pylist()
    return next(row["text"] for row in rows if row["gate"] == gate)


def test_a_search_that_finds_less_than_the_one_in_use_is_not_published(config, put_search, capfd):
    """Exit status 3. The error has the loss on clicked queries. The search in use stays, and `--force` is on record."""
    root = put_search(DAYS[0])
    assert run("check-search", config, "--ds", DAYS[0]) == run("promote", config, "--ds", DAYS[0]) == 0
    printed = capfd.readouterr().out
    assert f"NDCG@10 1.0000 on {len(JUDGING)} clicked queries, 1.0000 by words alone" in printed
    assert "check_search: search: 4 passed, 4 skipped" in printed
    put_search(DAYS[1], weights=BY_CHANCE)
    assert run("check-search", config, "--ds", DAYS[1]) == 3
    error = capfd.readouterr().err
    assert f"{DAYS[1]} is not published, the table of {DAYS[0]} stays in use: search_over_words -0." in error
    assert "must be at least -0.01: upper end of the interval of NDCG@10 search - search in use, 0." in error
    assert run("promote", config, "--ds", DAYS[1]) == 3
    assert in_use(root) == DAYS[0]
    assert run("check-search", config, "--ds", DAYS[1], "--force", "new teacher") == 0
    assert run("check-search", config, "--ds", DAYS[1]) == run("promote", config, "--ds", DAYS[1]) == 0
    assert "forced, as before (new teacher): search_over_words" in capfd.readouterr().out
    now = promotions.current(root)
    assert now is not None
    assert (now.ds, now.forced, now.reason) == (DAYS[1], ["search_over_words", "search_over_last_night"], "new teacher")
    put_search(DAYS[1], weights=BY_CHANCE, answered=149)
    assert run("promote", config, "--ds", DAYS[1]) == 2
    assert "the search gates of 2024-11-21 have not judged what is published now: run `distilrec check-search" in (
        capfd.readouterr().err
    )
    assert run("check-search", config, "--ds", DAYS[1]) == 3


def test_the_search_in_use_is_asked_for_products_that_are_sold_now(config, put_search):
    """It does not lose by products that are sold out since, although they match better. It does lose by new products."""
    root = put_search(DAYS[0], titles=PAIRS)
    assert run("check-search", config, "--ds", DAYS[0]) == run("promote", config, "--ds", DAYS[0]) == 0
    odd = {word: number | 1 for word, number in OWN.items()}
    put_search(DAYS[1], titles=PAIRS, clicked=odd, sold=[False, True] * 75)
    assert run("check-search", config, "--ds", DAYS[1]) == 0
    assert "search - search in use, 1.0000 - 1.0000 = " in text_of(root, DAYS[1], "search_over_last_night")
    put_search(DAYS[1], items=[*(f"new{number}" for number in range(75)), *ITEMS[75:]])
    assert run("check-search", config, "--ds", DAYS[1]) == 0
    known = sum(OWN[word] >= 75 for word in JUDGING) / len(JUDGING)
    assert f"search - search in use, 1.0000 - {known:.4f} = " in text_of(root, DAYS[1], "search_over_last_night")


@pytest.mark.parametrize("fault", ["nothing is sold", "few clicks", "unreadable"])
def test_what_cannot_be_compared_is_said(config, put_search, fault):
    """Too few clicked queries, and a search in use of another format, skip the comparison. No product to sell fails."""
    root = put_search(DAYS[0])
    assert run("check-search", config, "--ds", DAYS[0]) == run("promote", config, "--ds", DAYS[0]) == 0
    changes = {
        "nothing is sold": {"sold": [False] * len(WORDS), "answered": 0},
        "few clicks": {"clicked": {word: OWN[word] for word in JUDGING[:29]}},
    }
    put_search(DAYS[1], **changes.get(fault, {}))
    if fault == "unreadable":
        index = partitions.current(root, "search_index", DAYS[0]) / "index.json"
        index.write_text(json.dumps({"teacher": "t", "weights": {"words": 1}}))
    assert run("check-search", config, "--ds", DAYS[1]) == (3 if fault == "nothing is sold" else 0)
    expected = {
        "nothing is sold": "0 clicked queries can judge, and at least 30 are needed",
        "few clicks": "29 clicked queries can judge, and at least 30 are needed",
        "unreadable": f"the search of {DAYS[0]} cannot be compared: the search index in",
    }
    assert text_of(root, DAYS[1], "search_over_last_night").startswith(expected[fault])


def test_a_student_of_another_teacher_is_refused(config, put_search, capfd):
    """Exit status 2: this is no matter of degree, and no `--force` publishes it."""
    put_search(DAYS[0], teacher="another")
    assert run("check-search", config, "--ds", DAYS[0], "--force", "hurry") == 2
    assert "belongs to the teacher another, but the index in" in capfd.readouterr().err
    assert run("promote", config, "--ds", DAYS[0]) == 2


def test_without_a_log_or_without_search_nothing_is_compared(config, put_search, capfd):
    """Without a search log the comparisons are skipped. Without a section search the stage does not apply."""
    root = put_search(DAYS[0])
    assert run("check-search", config, "--ds", DAYS[0], "--set", "input.searches=null") == 0
    assert text_of(root, DAYS[0], "search_over_words") == "the shop has no search log"
    assert run("check-search", config, "--ds", DAYS[0], "--set", "search=null") == 2
    config.write_text(yaml.safe_dump({"name": "s", "output_dir": str(root), "input": {"simulate": {}}}))
    assert run("check-search", config, "--ds", DAYS[0]) == 0
    assert "check-search: skipped, the run config has no section search" in capfd.readouterr().out


def test_rankings_of_an_older_version_are_stale(config, put_search, capfd):
    """The error names the stage that measures what is missing."""
    root = put_search(DAYS[0])
    put(root, "search_rankings", DAYS[0], pa.table({"query": WORDS}), queries=150, answered=150)
    assert run("check-search", config, "--ds", DAYS[0]) == 2
    assert "search_rankings of 2024-11-20 is stale: the gates judge milliseconds" in capfd.readouterr().err

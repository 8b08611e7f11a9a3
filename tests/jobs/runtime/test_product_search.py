"""A nightly run of product search: a catalogue in, rankings, index and student out, and answers to what shoppers type."""

import csv
import json
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from jobs.__main__ import main
from jobs.runtime.product_search import search_teacher
from kdlib.config.load import load_config
from kdlib.errors import ConfigError, ModelError
from kdlib.release import promotions
from kdlib.search.index import load_index
from kdlib.store import partitions, search_tables, tables
from tests.whole_nights import run

DS = "2026-11-22"
KINDS = {
    "Notebook": (
        "notebook {n} inch, {c}, Core i5, 16 GB memory, SSD",
        "portable personal computer with screen and keyboard",
    ),
    "Notebook sleeve": ("laptop sleeve {n} inch {c} neoprene", "protects a laptop on the way"),
    "Desk lamp": ("desk lamp LED\x1b[2J {c} {n} watt", "light for reading, dimmable"),
    "Printer": ("laser printer {c} {n} pages per minute", "prints, scans and copies documents"),
    "Headphones": ("wireless headphones {c} {n} hours", "music with noise cancelling"),
}
BRANDS, COLOURS, NUMBERS = ("Acme", "Norvik", "Zentavo"), ("black", "silver", "blue", "red"), (13, 14, 15, 17)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run config of a small shop, after its run."""
    folder = tmp_path_factory.mktemp("search")
    with (folder / "products.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["sku", "name", "about", "kind", "in_stock"])
        for number, (kind, brand, colour, size) in enumerate(product(KINDS, BRANDS, COLOURS, NUMBERS)):
            name, about = KINDS[kind]
            sold = number % 40 > 0
            rows.writerow(
                [f"p{number:03d}", f"{brand} {name.format(n=size, c=colour)}", about, kind, str(sold).lower()]
            )
        rows.writerow(["p999", "", "", "", "true"])
        rows.writerow(["", "no id", "", "", "true"])
    config = folder / "run.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "name": "search_shop",
                "ds": DS,
                "output_dir": str(folder / "output"),
                "input": {
                    "catalogue": {
                        "path": str(folder / "products.csv"),
                        "format": "csv",
                        "item": "sku",
                        "title": "name",
                        "description": "about",
                        "category": "kind",
                        "available": "in_stock",
                    }
                },
                "search": {
                    "catalogue_queries": 6_000,
                    "epochs": 4,
                    "k": 12,
                    "text": {"max_tokens": 96, "adapt": {"batch_size": 64, "max_pairs": 128}},
                },
                "training": {"workers": 2},
            }
        )
    )
    printed = run(config)
    assert "train_search_encoder: 22,713,216 parameters" in printed
    assert "242 rows read = 241 products + 0 repeated + 1 without an item id" in printed
    assert "rank_search: 5 of 5 queries answered" in printed
    assert "check_search: search: 3 passed, 5 skipped" in printed
    return config


@pytest.mark.e2e
def test_a_run_of_a_catalogue_alone_publishes_rankings(shop: Path) -> None:
    """The table has a row for each category, with available products only. Index and student are promoted with it."""
    root = shop.parent / "output"
    folder = partitions.current(root, "search_rankings", DS)
    assert tables.check_files(search_tables.SEARCH_RANKINGS, folder) == 5
    rankings = {row["query"]: row for row in pq.read_table(folder).to_pylist()}
    assert set(rankings) == {kind.lower() for kind in KINDS}
    sold = {
        row["item_id"]: row
        for row in pq.read_table(partitions.current(root, "products", DS)).to_pylist()
        if row["available"]
    }
    for row in rankings.values():
        assert len(set(row["item_ids"])) == 12
        assert set(row["item_ids"]) <= set(sold)
        assert row["scores"] == sorted(row["scores"], reverse=True)
    assert {sold[item]["category"] for item in rankings["printer"]["item_ids"]} == {"Printer"}
    now = promotions.current(root)
    assert now is not None
    assert now.ds == DS
    assert (root / promotions.LINK / "search_rankings").is_dir()
    facts = json.loads((root / promotions.LINK / "models" / "search_student" / "model.json").read_text())
    assert facts["parameters"] < 22_713_216 / 10
    assert facts["cosine"] > facts["epochs"][0]["cosine"] + 0.05


@pytest.mark.e2e
def test_whatever_is_typed_is_answered(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers to real words, misspelt words, unknown words and texts that are no query. No title controls the terminal."""
    typed = [
        "laser printer",
        "prinetr",
        "brightness",
        "",
        "😀😀",
        "ᏣᎳᎩ",
        "x" * 10_000,
        "'; DROP TABLE products; --",
        "笔记本电脑",
    ]
    assert main(["search", "--config", str(shop), "-k", "5", *typed]) == 0
    printed = capsys.readouterr().out
    assert "'prinetr': searched for 'printer' in place of 'prinetr'" in printed
    assert "'brightness': no product has these words: these are the nearest in meaning" in printed
    assert "'': nothing to search for" in printed
    assert "'😀😀': nothing to search for" in printed
    assert "'ᏣᎳᎩ': not understood" in printed
    assert "\x1b" not in printed
    answers = [answer.splitlines()[1:] for answer in printed.split("\n'")]
    assert [len(answer) for answer in answers[:6]] == [5, 5, 5, 0, 0, 0]
    assert all("desk lamp LED [2J" in line for line in answers[2])
    assert all("laser printer" in line for line in answers[0] + answers[1])
    assert main(["search", "--config", str(shop), "--category", "Desk lamp", "printer"]) == 0
    lamps = capsys.readouterr().out.splitlines()[1:-1]
    assert len(lamps) == 10
    assert all("desk lamp" in line for line in lamps)
    assert main(["search", "--config", str(shop), "--category", "Sofa", "printer"]) == 2
    assert "no product has the category 'Sofa'" in capsys.readouterr().err


@pytest.mark.e2e
def test_the_same_run_again_does_nothing_and_a_damaged_index_is_refused(shop: Path, tmp_path: Path) -> None:
    """Every stage is up to date. An index without its vectors is an error that says what to do."""
    printed = run(shop)
    for name in (
        "products",
        "models/search_encoder",
        "product_vectors",
        "search_targets",
        "models/search_student",
        "search_index",
        "search_rankings",
    ):
        assert f"{name}: up to date" in printed
    student = partitions.current(shop.parent / "output", "models/search_student", DS)
    with pytest.raises(ModelError, match=r"search index in .* is damaged or incomplete.*train-search"):
        load_index(tmp_path, student)


def test_a_student_wider_than_its_teacher_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    """The error has the setting, its value and the width of the encoder."""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"name: s\nds: 2026-11-22\noutput_dir: {tmp_path}/out\ninput: {{simulate: {{}}}}\nsearch: {{width: 512}}\n"
    )
    with pytest.raises(ConfigError, match=r"search.width 512 is more than the encoder .* has, 384"):
        search_teacher(load_config(path), {})

"""A simulated night with every rule for lists: DuckDB looks for a violation in the published tables."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.store import partitions
from tests.jobs.conftest import DS, copy_of
from tests.jobs.handmade import run as run_here
from tests.whole_nights import run, whole

POLICY: dict[str, Any] = {
    "include": {"price": {"min": 1}},
    "exclude": {"colour": ["black", "red", "blue"]},
    "exclude_recent": {"view": "1d", "purchase": "5d"},
    "at_most": {"brand": 2, "category": 3},
    "new_items": {"days": 6, "share": 0.25},
    "boosts": [{"items": {"price": {"max": 40}}, "factor": 3}],
    "segments": {"feature": "country", "rules": {"fr": {"exclude": {}, "at_most": {"brand": 1}, "pins": []}}},
}


@pytest.fixture(scope="module")
def ruled(night: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str, str]:
    """The run of `night` once more, with every rule: run config, output folder, the pinned item, printed text."""
    config, root, _ = copy_of(night, tmp_path_factory.mktemp("ruled") / "night")
    people = pq.read_table(partitions.current(root, "histories", DS))["user_id"].to_pylist()
    users = config.parent / "users.csv"
    lines = [f"{user},{('de', 'fr', '')[number % 3]}" for number, user in enumerate(people)]
    users.write_text("\n".join(["user_id,country", *lines, "nobody,de"]) + "\n")
    [catalogue] = partitions.current(root, "catalogue", DS).glob("*.parquet")
    products = pq.read_table(catalogue).sort_by("item_id").to_pylist()
    items = [row["item_id"] for row in products if row["available"] and row["colour"] not in ("black", "red", "blue")]
    known = set(pq.read_table(partitions.current(root, "item_vocabulary", DS))["item_id"].to_pylist())
    pinned = next(item for item in items if item in known)
    document = yaml.safe_load(config.read_text())
    document["input"]["users"] = {"path": str(users), "format": "csv", "features": {"country": "category"}}
    document["recommend"]["policy"] = POLICY | {"pins": [{"item": pinned, "place": 3}]}
    config.write_text(yaml.safe_dump(document))
    return config, root, pinned, run(config)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_no_published_list_breaks_a_rule(ruled: tuple[Path, Path, str, str]) -> None:
    """The query for each rule finds no list that breaks it, and no model is trained again."""
    _, root, pinned, printed = ruled
    whole(root, DS)
    assert " epoch " not in printed, "the models of the night without rules are used"
    assert "build_side_features: user_features: country " in printed
    base = duckdb.connect()
    for name in ("recommendations", "histories", "item_vocabulary", "item_features", "user_features"):
        base.sql(f"CREATE VIEW {name} AS SELECT * FROM '{partitions.current(root, name, DS)}/*.parquet'")
    base.sql(f"""
        CREATE TABLE shown AS
        SELECT r.user_id, unnest(range(1, len(item_ids) + 1)) AS rank, unnest(item_ids) AS item_id,
               unnest(scores) AS score, unnest(item_sources) AS item_source, coalesce(u.values[1], '') AS country
        FROM recommendations r LEFT JOIN user_features u USING (user_id);
        CREATE VIEW feature AS SELECT item_id, f.* FROM item_features f JOIN item_vocabulary USING (item_index);
        CREATE TABLE touched AS
        SELECT user_id, item_id, kind, TIMESTAMPTZ '{DS} 00:00:00+00' + INTERVAL 1 DAY - happened AS age
        FROM (SELECT user_id, unnest(item_indices) AS item_index, unnest(event_types) AS kind, unnest(event_times) AS happened
              FROM histories) JOIN item_vocabulary USING (item_index);
    """)

    def broken(query: str) -> list[tuple]:
        return base.sql(query).fetchall()

    assert {row[0] for row in broken("SELECT DISTINCT country FROM shown")} == {"de", "fr", ""}
    assert not broken("SELECT * FROM shown JOIN item_vocabulary USING (item_id) WHERE NOT available")
    cheap = "SELECT item_id FROM feature WHERE feature = 'price' AND number >= 1"
    assert not broken(f"SELECT * FROM shown WHERE item_id NOT IN ({cheap})")
    dark = "SELECT item_id FROM feature WHERE feature = 'colour' AND values[1] IN ('black', 'red', 'blue')"
    assert not broken(f"SELECT * FROM shown WHERE country <> 'fr' AND item_id IN ({dark})")
    assert broken(f"SELECT * FROM shown WHERE country = 'fr' AND item_id IN ({dark})"), "the segment has its own rule"
    both = "SELECT * FROM shown JOIN touched USING (user_id, item_id)"
    hidden = "kind IN (1, 2) OR (kind = 0 AND age < INTERVAL 1 DAY) OR (kind = 3 AND age < INTERVAL 5 DAY)"
    assert not broken(f"{both} WHERE {hidden}")
    assert broken(f"{both} WHERE kind = 0"), "viewed items come back after a day"
    for feature, most in (("brand", "CASE country WHEN 'fr' THEN 1 ELSE 2 END"), ("category", "3")):
        counted = f"SELECT user_id, country, values[1] AS value, count(*) AS number FROM shown JOIN feature USING (item_id) WHERE feature = '{feature}' GROUP BY ALL"
        if feature == "category":
            counted += " HAVING country <> 'fr'"
        assert not broken(f"SELECT * FROM ({counted}) WHERE number > {most}"), feature
    new = f"count_if(DATE '{DS}' + 1 - first_seen::DATE <= 6)"
    per_list = (
        f"SELECT user_id, {new} AS new, count(*) AS number FROM shown JOIN item_vocabulary USING (item_id) GROUP BY ALL"
    )
    assert not broken(f"SELECT * FROM ({per_list}) WHERE new < least(2, number)")
    pins = broken("SELECT DISTINCT item_id, rank, country = 'fr' FROM shown WHERE item_source = 'pinned'")
    assert pins == [(pinned, 3, False)]
    assert not broken("SELECT * FROM shown WHERE item_source NOT IN ('model', 'popular', 'pinned')")
    ordered = "SELECT user_id, list(score ORDER BY rank) AS scores FROM shown WHERE item_source <> 'pinned' GROUP BY 1"
    assert not broken(f"SELECT * FROM ({ordered}) WHERE scores <> list_reverse_sort(scores)")


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_each_rule_has_its_cost(ruled: tuple[Path, Path, str, str]) -> None:
    """The metrics have the student under the rules, and the difference that each rule makes. The summary prints it."""
    _, root, _, printed = ruled
    rows = pq.read_table(partitions.current(root, "metrics", DS)).to_pylist()
    found = {(row["model"], row["metric"]): row for row in rows}
    for rule in (*(name for name in POLICY if name != "segments"), "pins", "rules"):
        cost = found[f"without_{rule} - with_rules", "ndcg@10"]
        values = [found[name, "ndcg@10"]["value"] for name in (f"without_{rule}", "with_rules")]
        assert cost["value"] == pytest.approx(values[0] - values[1])
        assert cost["low"] <= cost["value"] <= cost["high"]
        assert f"student without {rule} - student under the rules" in printed
        assert found[f"without_{rule}", "diversity@10"]["value"] > 0
    users = [found["student", f"novelty@10/country = {one}"]["num_users"] for one in ("fr", "(other)")]
    assert sum(users) == found["student", "novelty@10"]["num_users"]


def test_a_pin_of_an_unknown_item_ends_the_run_before_the_training(
    ruled: tuple[Path, Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`check-input` names the pin that no item has."""
    config, *_ = ruled
    wrong = "recommend.policy.pins=[{item: no-such-item, place: 1}]"
    assert run_here("check-input", config, "--set", wrong) == 2
    assert "recommend.policy.pins: the item 'no-such-item' is not in the vocabulary" in capsys.readouterr().err

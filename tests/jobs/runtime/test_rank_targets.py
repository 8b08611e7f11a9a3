"""Ranks over Ray Data, with a stand-in for Ray Data."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.runtime import rank_targets
from kdlib.config.operations import GatesConfig
from kdlib.config.run import RunConfig
from kdlib.data.windows import list_matrix
from kdlib.inference.evaluator import Evaluator
from kdlib.metrics.beyond import Items, beyond_table
from kdlib.metrics.table import format_metrics, metrics_table
from kdlib.models.files import save_model
from kdlib.release import gates
from tests.data.test_windows import histories
from tests.inference.test_recommender import tiny_model

QUALITY = ("min_test_users", "min_gain_over_popularity", "max_loss_to_last_night", "min_coverage_ratio")


class Nothing:
    """A Ray Dataset whose batches are all empty. Ray then gives no batch."""

    def map_batches(self, *_: Any, **__: Any) -> "Nothing":
        return self

    def iter_batches(self, **_: Any) -> list[pa.Table]:
        return []


def test_a_run_of_repeats_fails_the_gate_of_the_test_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a user whose next item is new, the table has no rows and the evaluator's schema, and the gate fails."""
    import ray
    import ray.data

    monkeypatch.setattr(rank_targets, "start_ray", lambda _: nullcontext())
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 9.0})
    monkeypatch.setattr(ray, "put", lambda one: one)
    monkeypatch.setattr(ray.data, "from_arrow", lambda _: Nothing())
    monkeypatch.setattr(ray.data, "ActorPoolStrategy", lambda **_: None)
    (tmp_path / "model").mkdir()
    model = tiny_model()
    save_model(tmp_path / "model", model, model.state_dict(), {})
    repeats = histories([([1, 2, 1], [0] * 3, 1, None, 2), ([3, 3], [0] * 2, 1, None, 1)])
    pq.write_table(repeats, tmp_path / "histories.parquet")
    counts = {"item_index": range(model.num_items), "num_train": [1] * model.num_items}
    pq.write_table(pa.table({name: list(values) for name, values in counts.items()}), tmp_path / "statistics.parquet")
    source: Any = SimpleNamespace(histories=tmp_path, statistics=tmp_path / "statistics.parquet")
    monkeypatch.setattr(rank_targets, "parquet_files", lambda _: [str(tmp_path / "histories.parquet")])
    compared = {"student": [(str(tmp_path / "model"), 1.0)]}
    config = RunConfig.model_validate({"name": "x", "output_dir": str(tmp_path), "input": {"simulate": {}}})

    found = rank_targets.rank_targets(config, source, repeats, compared, top=10, confidence_k=10)
    markov = rank_targets.count_transitions([str(tmp_path / "histories.parquet")], np.ones(model.num_items))
    made = Evaluator(compared, markov, 10, 10, 1)(repeats)
    assert len(found) == len(made) == 0
    assert found.schema.equals(made.schema)

    ranks = {name: found[f"rank/{name}"].to_numpy() for name in ("student", "popularity", "markov")}
    accuracy = metrics_table(
        ranks,
        (10,),
        pairs=[("student", "popularity")],
        samples=5,
        seed=0,
        slices={"ndcg@10": {}},
        confidence={"student": found["confidence/student"].to_numpy()},
    )
    counts_V = np.ones(model.num_items, np.int64)
    items = Items(counts_V, counts_V, np.ones((model.num_items, 2)), is_new=None, total_users=2)
    lists = {name: list_matrix(found[f"top/{name}"], 10) for name in ranks}
    metrics = pa.concat_tables([accuracy, beyond_table(lists, items, k=10, segments={}, samples=5, seed=0)])
    assert "student" in format_metrics(metrics, k=10)
    bounds = GatesConfig().model_dump(include=set(QUALITY))
    judged = gates.quality_gates(metrics, [], metric="ndcg@10", coverage_metric="coverage@10", **bounds)
    assert "test_users" in [gate.gate for gate in gates.failed(judged)]

"""Can one set of item vectors serve recommendation and search? → results/one_student.json

    python -m tests.benchmarks.one_student --config cluster/runs/search.yaml

Needs a finished run of a shop with both. It measures two ways of sharing:
- Recommend with the search vectors: the score is the cosine to the mean vector of a user's last items. The number of last
  items is chosen on the test users themselves.
- Search with the recommendation student's item vectors: a ridge regression maps a query's vector to their space. It learns
  from the clicks of one half of the queries. Its ridge is chosen on the other half, which also judges.

Both choices use the judging data, so they favour sharing.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from jobs.benchmark.provenance import hardware, package_versions
from jobs.runtime.command import execute
from jobs.runtime.console import say
from jobs.runtime.names import SEARCH_STUDENT, logged_queries
from jobs.runtime.product_search import clicked, read_products, typed_queries
from jobs.runtime.published import features, published
from jobs.runtime.rank_targets import histories_to_test
from kdlib.config.run import RunConfig
from kdlib.data.windows import EvaluationRows, evaluation_rows
from kdlib.metrics.judged import ndcg_of
from kdlib.metrics.ranking import ndcg
from kdlib.models.files import load_model
from kdlib.search.fusion import Weights
from kdlib.search.index import load_index
from kdlib.search.student import encode_queries, load_student
from kdlib.search.words import in_first_half
from kdlib.store import partitions
from kdlib.teachers.text import read_vectors
from tests.benchmarks.command_line import invocation_of, run_config_parser

RESULTS = Path(__file__).parent / "results" / "one_student.json"
K = 10
LAST_ITEMS = (1, 2, 3, 5, 10, 50)
RIDGES = tuple(10.0**power for power in range(-2, 6))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _recommended_by_text(rows: EvaluationRows, text_VE: np.ndarray) -> dict[str, float]:
    """Number of last items → NDCG@10 of the test users' next items, ranked among all items outside the history."""
    found = {}
    for last in LAST_ITEMS:
        ranks = []
        for number, target in enumerate(rows.targets):
            history = rows.items[rows.offsets[number] : rows.offsets[number + 1]]
            scores_V = text_VE @ text_VE[history[-last:]].mean(0)
            scores_V[history] = -np.inf
            ranks.append(int((scores_V > scores_V[target]).sum()))
        found[str(last)] = float(ndcg(np.array(ranks), K).mean())
    return found


def run(config: RunConfig) -> None:
    made = published(config, "products", "product_vectors", "search_index", SEARCH_STUDENT, *logged_queries(config))
    products, source = read_products(made["products"].folder), features(config)
    vectors_VE = read_vectors(made["product_vectors"].folder, "product_index")
    place = {item: number for number, item in enumerate(products["item_id"].to_pylist())}
    known = source.item_ids()
    text_VE = _unit(
        np.stack([vectors_VE[place[item]] if item in place else np.zeros(vectors_VE.shape[1]) for item in known])
    )
    rows = evaluation_rows(histories_to_test(config, source), position_column="test_position")
    by_text = _recommended_by_text(rows, text_VE)
    metrics = pq.read_table(partitions.current(config.root, "metrics", config.day)).to_pylist()
    student = next(r["value"] for r in metrics if (r["model"], r["metric"]) == ("student", f"ndcg@{K}"))

    student_folder = made[SEARCH_STUDENT].folder
    index = load_index(made["search_index"].folder, student_folder)
    model, _ = load_model(partitions.current(config.root, "models/student", config.day))
    with torch.no_grad():
        bought_VD = _unit(model.item_vectors().numpy())
    index_of = {item: number for number, item in enumerate(known)}
    number_of = {number: index_of[item] for item, number in place.items() if item in index_of}
    gains = {
        query: {number_of[one]: weight for one, weight in items.items() if one in number_of}
        for query, items in clicked(typed_queries(made), made, products).items()
    }
    gains = {query: items for query, items in gains.items() if items}
    learns, judges = ([q for q in gains if in_first_half(q) == half] for half in (True, False))

    def judged(scores_QV: np.ndarray) -> float:
        total = 0.0
        for query, scores_V in zip(judges, scores_QV, strict=True):
            best = np.argsort(-scores_V, kind="stable")[:K]
            total += ndcg_of(
                np.array([gains[query].get(int(one), 0.0) for one in best]), np.array(list(gains[query].values())), k=K
            )
        return total / len(judges)

    places = [place.get(item, -1) for item in known]
    sides = {"whole_score": index.weights, "words": Weights(0.0, 0.0), "search_vectors": Weights(1e6, 0.0)}
    searched = {
        name: judged(
            np.where(np.array(places) >= 0, index.scores(judges, weights=weights)[1].numpy()[:, places], -np.inf)
        )
        for name, weights in sides.items()
    }
    encoder, tokens, _ = load_student(student_folder)
    inputs = {
        name: encode_queries(encoder, tokens, queries).numpy()
        for name, queries in (("learn", learns), ("judge", judges))
    }
    wanted_QD = np.stack(
        [np.average(bought_VD[list(gains[q])], axis=0, weights=list(gains[q].values())) for q in learns]
    )
    by_ridge = {}
    for ridge in RIDGES:
        square = inputs["learn"].T @ inputs["learn"] + ridge * np.eye(inputs["learn"].shape[1])
        mapped = inputs["judge"] @ np.linalg.solve(square, inputs["learn"].T @ wanted_QD)
        by_ridge[str(ridge)] = judged(_unit(mapped) @ bought_VD.T)
    searched["recommendation_vectors"] = max(by_ridge.values())
    figures = {
        "test_users": len(rows),
        "recommended_ndcg10": {"student": student, "search_vectors": max(by_text.values())},
        "queries": {"learn": len(learns), "judge": len(judges)},
        "searched_ndcg10": searched,
    }
    say(json.dumps(figures, indent=1))
    RESULTS.write_text(
        json.dumps(
            {
                "command": f"python -m tests.benchmarks.one_student --config cluster/runs/{config.name}.yaml",
                "date": datetime.now(UTC).date().isoformat(),
                "hardware": hardware(config),
                "versions": package_versions(),
                "seed": config.seed,
                "figures": figures,
                "by_last_items": by_text,
                "by_ridge": by_ridge,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    invocation = invocation_of(run_config_parser(__doc__).parse_args())
    sys.exit(execute("one_student", invocation, run, reads_only=True))

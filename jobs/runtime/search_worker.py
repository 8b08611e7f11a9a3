"""What runs in each Ray Train worker of the search student's training: queries and vectors in, a query encoder out."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from jobs.runtime.student_worker import STREAM_ROWS, _Best, _checkpoint, _resume
from kdlib.config.models import TrainConfig
from kdlib.search.distil import held_out, train_epoch
from kdlib.search.student import QueryEncoder, QueryTokens, encode_queries, save_student
from kdlib.teachers.contrastive import learning_rate_at
from kdlib.teachers.text import TextEncoder
from kdlib.training.engine import full_weights, make_engine

PRODUCTS_PER_STEP = 1024
MOST_PRODUCTS = 200_000
"""Products that training compares with; of a larger catalogue an even sample."""
MOST_HELD_OUT = 1_000
NEAREST = 10


def search_worker(spec: dict[str, Any]) -> None:
    """Ray Train's training function; `spec` comes from `jobs.train_search`."""
    import ray.train
    import ray.train.torch

    settings, search, encoder = spec["settings"], spec["search"], Path(spec["encoder"])
    torch.set_num_threads(settings["threads_per_worker"])
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, world = context.get_world_rank(), context.get_world_size()
    products_PE = torch.from_numpy(_products(spec["products"])).to(device)
    queries, teacher_NE = _queries(world)
    judged, judged_NE = _held_out(spec["held_out"])
    tokens = QueryTokens(spec["tokenizer"])
    torch.manual_seed(spec["seed"])
    embeddings = TextEncoder(encoder).model.get_input_embeddings().weight.detach()[spec["pieces"]]
    model = QueryEncoder(
        vocabulary=len(embeddings), width=search["width"], out=products_PE.shape[1], kind=search["student"]
    )
    model.start_from(embeddings)
    size = search["batch_size"] // world
    engine = make_engine(
        model.to(device),
        TrainConfig(batch_size=size * world, learning_rate=search["learning_rate"], weight_decay=0.01),
        zero_stage=min(settings["zero_stage"], 2),
        workers=world,
        bf16=False,  # two million weights: nothing to split or halve
    )
    steps = search["epochs"] * max(len(queries) // size, 1)
    rate = partial(learning_rate_at, steps=steps, peak=search["learning_rate"], warmup_fraction=0.05)
    best = {"student": _Best()}
    state: dict[str, Any] = {"run": spec["name"], "epoch": 0, "steps": 0, "log": []}
    _resume(engine, best, state, ray.train.get_checkpoint())
    while state["epoch"] < search["epochs"]:
        started = time.monotonic()
        figures = train_epoch(
            engine,
            queries,
            teacher_NE,
            products_PE,
            tokens,
            batch_size=size,
            products_per_step=PRODUCTS_PER_STEP,
            misspelt_fraction=search["misspelt_fraction"],
            learning_rate=rate,
            first_step=state["steps"],
            seed=spec["seed"] * 1_000_003 + state["epoch"] * 1_009 + rank,
            device=device,
        )
        if not np.isfinite(figures["loss"]):
            raise FloatingPointError(
                f"the search student's loss is not finite in epoch {state['epoch'] + 1}; lower search.learning_rate"
            )
        state["epoch"], state["steps"] = state["epoch"] + 1, state["steps"] + int(figures["steps"])
        weights = full_weights(engine, model)
        judgement = _judge(model.options, weights, tokens, judged, judged_NE, products_PE.cpu())
        line = {"epoch": state["epoch"], **figures, **judgement, "train_seconds": time.monotonic() - started}
        best["student"].update(judgement["cosine"], weights, has_rows=len(judged) > 0)
        state["log"] = [*state["log"], line]
        if rank == 0:
            with Path(spec["report"]).open("a") as stream:
                stream.write(json.dumps({"text": _epoch_text(line, search["epochs"])}) + "\n")
        _checkpoint(engine, best, state, line, rank=rank)
    if rank == 0:
        kept = max(state["log"], key=lambda line: line["cosine"])
        facts = {
            **spec["facts"],
            **{name: kept[name] for name in ("epoch", "cosine", "overlap@10")},
            "held_out": len(judged),
        }
        save_student(
            Path(spec["export"]),
            model.options,
            best["student"].weights,
            spec["tokenizer"],
            spec["words"],
            {**facts, "queries": len(queries) * world, "epochs": state["log"]},
        )
    engine.destroy()


def _products(files: list[str]) -> np.ndarray:
    """The teacher's product vectors, float32 [products, E]; of more than `MOST_PRODUCTS` every so many one."""
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    step = -(-rows // MOST_PRODUCTS)
    parts = [_vectors(pq.read_table(file, columns=["vector"]))[::step] for file in files]
    return np.concatenate(parts)


def _queries(world: int) -> tuple[list[str], np.ndarray]:
    """This worker's training queries and the teacher's vectors of them, equally many on every worker."""
    import ray.train

    shard: Any = ray.train.get_dataset_shard("train")
    parts = [part for part in shard.iter_batches(batch_size=STREAM_ROWS, batch_format="pyarrow") if len(part)]
    table = pa.concat_tables(parts).sort_by("query") if parts else None  # whichever shard's blocks came first
    queries = table["query"].to_pylist() if table else []
    learnt = np.array([not held_out(query) for query in queries], bool)
    counts = [int(learnt.sum())] * world
    if world > 1:
        dist.all_gather_object(counts, int(learnt.sum()))
    if min(counts) == 0 or table is None:
        raise ValueError(
            f"too few queries to learn from (a worker has {counts}): the catalogue needs titles of several words, or lower"
            " training.workers"
        )
    places = np.flatnonzero(learnt)[: min(counts)]
    return [queries[place] for place in places], _vectors(table)[places]


def _held_out(files: list[str]) -> tuple[list[str], np.ndarray]:
    """Queries that no worker learns from, and the teacher's vectors of them: the same on every worker."""
    table = pq.read_table(files)
    queries = table["query"].to_pylist()
    places = [place for place, query in enumerate(queries) if held_out(query)][:MOST_HELD_OUT]
    return [queries[place] for place in places], _vectors(table.take(places)) if places else np.zeros(
        (0, 1), np.float32
    )


def _judge(
    options: dict[str, Any],
    weights: dict[str, torch.Tensor],
    tokens: QueryTokens,
    queries: list[str],
    teacher_NE: np.ndarray,
    products_PE: torch.Tensor,
) -> dict[str, float]:
    """How near the student comes to the teacher on held-out queries: the mean cosine, and the share of common nearest products."""
    if not queries:
        return {"cosine": 0.0, "overlap@10": 0.0}
    model = QueryEncoder(**options)
    model.load_state_dict(weights)
    student_NE, teacher = encode_queries(model.eval(), tokens, queries), torch.from_numpy(teacher_NE)
    k, common = min(NEAREST, len(products_PE)), 0.0
    for start in range(0, len(queries), 128):
        ours, theirs = (
            (vectors[start : start + 128] @ products_PE.T).topk(k).indices for vectors in (student_NE, teacher)
        )
        common += (ours[:, :, None] == theirs[:, None]).any(2).float().mean(1).sum().item()
    cosine = torch.nn.functional.cosine_similarity(student_NE, teacher, dim=1).mean().item()
    return {"cosine": cosine, "overlap@10": common / len(queries)}


def _vectors(table: pa.Table) -> np.ndarray:
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(len(table), -1)


def _epoch_text(line: dict[str, Any], epochs: int) -> str:
    return (
        f"search student epoch {line['epoch']:>2}/{epochs}: loss {line['loss']:.3f} | held-out queries: cosine to the teacher"
        f" {line['cosine']:.3f}, {line['overlap@10']:.0%} of its ten nearest products ({line['train_seconds']:.1f} s)"
    )

"""What runs in each Ray Train worker of the text encoder's training: pairs in, epochs through DeepSpeed, an encoder out."""

import hashlib
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from jobs.runtime.student_worker import STREAM_ROWS, _Best, _checkpoint, _resume
from kdlib.config.models import AdaptConfig, TrainConfig
from kdlib.data.windows import read_evaluation_histories
from kdlib.teachers.contrastive import (
    held_out_pairs,
    keep_chances,
    learning_rate_at,
    number_titles,
    recall,
    sample_pairs,
    train_epoch,
)
from kdlib.teachers.text import TextEncoder, Tokenise, encode_texts, encoder_folder, load_tokeniser
from kdlib.training.engine import full_weights, make_engine

ENCODER_FILE = "encoder.json"
K = 10


def encoder_worker(spec: dict[str, Any]) -> None:
    """Ray Train's training function; `spec` comes from `jobs.train_text_encoder.fit_encoder`."""
    import ray.train
    import ray.train.torch

    settings, adapt, base = spec["settings"], AdaptConfig(**spec["adapt"]), encoder_folder(spec["base"])
    torch.set_num_threads(settings["threads_per_worker"])
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, world = context.get_world_rank(), context.get_world_size()
    texts, number_V = number_titles(_column(spec["texts"], "title"))
    pairs_P2 = _pairs(adapt, spec, number_V, rank=rank, world=world)
    held_out_N2 = _held_out(adapt, spec, number_V)
    size = adapt.batch_size // world
    steps_per_epoch = max(len(pairs_P2) // size, 1)
    learning_rate = partial(
        learning_rate_at,
        steps=adapt.epochs * steps_per_epoch,
        peak=adapt.learning_rate,
        warmup_fraction=adapt.warmup_fraction,
    )
    tokenise = load_tokeniser(base, max_tokens=spec["max_tokens"])
    module = TextEncoder(base, gradient_checkpointing=adapt.gradient_checkpointing).to(device)
    engine = make_engine(
        module,
        TrainConfig(
            batch_size=adapt.batch_size,
            learning_rate=adapt.learning_rate,
            weight_decay=adapt.weight_decay,
            gradient_clipping=adapt.gradient_clipping,
        ),
        zero_stage=settings["zero_stage"],
        workers=world,
        bf16=settings["bf16"],
    )
    best = {"encoder": _Best()}
    state: dict[str, Any] = {"run": spec["name"], "epoch": 0, "steps": 0, "log": []}
    _resume(engine, best, state, ray.train.get_checkpoint())

    def judge(figures: dict[str, float], started: float) -> dict[str, Any]:
        """The epoch's line, with the validation recall; the best epoch's weights are kept, the pretrained count too."""
        line: dict[str, Any] = {"epoch": state["epoch"], **figures, "train_seconds": time.monotonic() - started}
        if len(held_out_N2):
            line["recall@10"] = _recall(
                engine, texts, tokenise, held_out_N2, size, device=device, rank=rank, world=world
            )
        best["encoder"].update(
            line.get("recall@10", 0.0), full_weights(engine, module.model), has_rows=len(held_out_N2) > 0
        )
        state["log"] = [*state["log"], line]
        if rank == 0:
            with Path(spec["report"]).open("a") as stream:
                stream.write(json.dumps({"text": _epoch_text(spec["name"], line, adapt.epochs)}) + "\n")
        return line

    if not state["log"]:
        judge({}, time.monotonic())
    while state["epoch"] < adapt.epochs:
        started = time.monotonic()
        # dropout: other draws in each worker, and after a checkpoint the same as without the break
        torch.manual_seed(spec["seed"] + 1000 * (rank + 1) + 1_000_003 * state["epoch"])
        figures = train_epoch(
            engine,
            pairs_P2,
            texts,
            tokenise,
            batch_size=size,
            temperature=adapt.temperature,
            learning_rate=learning_rate,
            first_step=state["steps"],
            seed=spec["seed"] * 1_000_003 + state["epoch"] * 1_009 + rank,
            device=device,
        )
        if not np.isfinite(figures["loss"]):
            raise FloatingPointError(
                f"{spec['name']}: the loss is not finite in epoch {state['epoch'] + 1}; lower adapt.learning_rate"
            )
        state["epoch"], state["steps"] = state["epoch"] + 1, state["steps"] + int(figures["steps"])
        _checkpoint(engine, best, state, judge(figures, started), rank=rank)
    if rank == 0:
        kept = max(state["log"], key=lambda line: line["recall@10"]) if len(held_out_N2) else state["log"][-1]
        facts = {"pairs": len(pairs_P2) * world, "validation_pairs": len(held_out_N2), "epoch": kept["epoch"]}
        _export(Path(spec["export"]), base, best["encoder"].weights, {**spec["facts"], **facts, "epochs": state["log"]})
    engine.destroy()


def _pairs(adapt: AdaptConfig, spec: dict[str, Any], number_V: np.ndarray, *, rank: int, world: int) -> np.ndarray:
    """This worker's pairs as title numbers, equally many on every worker."""
    import ray.train

    counts_V = np.array(_column(spec["statistics"], "num_train")) if spec["statistics"] else np.ones(len(number_V))
    shard: Any = ray.train.get_dataset_shard("train")
    parts = shard.iter_batches(batch_size=STREAM_ROWS, batch_format="numpy", prefetch_batches=1)
    pairs_P2 = sample_pairs(
        (np.stack([part["item"], part["next_item"]], 1) for part in parts),
        number_V,
        keep_chances(counts_V, popular_factor=adapt.popular_factor),
        max_pairs=-(-adapt.max_pairs // world),
        seed=spec["seed"] * 1_000 + rank,
    )
    counts = [len(pairs_P2)] * world
    if world > 1:
        dist.all_gather_object(counts, len(pairs_P2))
    if min(counts) == 0 or sum(counts) < 2:
        raise ValueError(
            f"too few pairs of texts to train on (pairs a worker: {counts}): recommendation needs neighbouring training items"
            " with different titles, search products with titles and descriptions; give the catalogue's, lower training.workers,"
            " or leave text.adapt out"
        )
    return pairs_P2[: min(counts)]


def _held_out(adapt: AdaptConfig, spec: dict[str, Any], number_V: np.ndarray) -> np.ndarray:
    """Judging pairs of different titles, as title numbers, int64 [pairs, 2]; the same on every worker: those that are given,
    or the transitions into the validation positions."""
    if spec["judging"]:
        found = np.stack([pq.read_table(spec["judging"])[name].to_numpy() for name in ("item", "next_item")], 1)
    else:
        found = held_out_pairs(
            read_evaluation_histories(
                spec["histories"], position_column="validation_position", max_users=adapt.validation_pairs
            )
        )
    pairs_N2 = number_V[found].astype(np.int64)
    return pairs_N2[(pairs_N2 >= 0).all(1) & (pairs_N2[:, 0] != pairs_N2[:, 1])]


def _recall(
    engine: Any,
    texts: list[str],
    tokenise: Tokenise,
    held_out_N2: np.ndarray,
    size: int,
    *,
    device: torch.device,
    rank: int,
    world: int,
) -> float:
    """Recall of the true next title among all titles of the held-out transitions."""
    unique_U, places = np.unique(held_out_N2, return_inverse=True)
    engine.eval()
    vectors_UD = encode_texts(
        engine, [texts[title] for title in unique_U], tokenise, batch_size=size, device=device, rank=rank, world=world
    )
    return recall(vectors_UD, torch.from_numpy(places.reshape(-1, 2)).to(device), k=K)


def _export(folder: Path, base: Path, weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """A Hugging Face folder: configuration, tokeniser, weights; and the facts."""
    from transformers import AutoTokenizer

    model = TextEncoder(base).model
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(folder)
    raw = (folder / "model.safetensors").read_bytes()
    own = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "parameters": model.num_parameters()}
    (folder / ENCODER_FILE).write_text(json.dumps({**facts, **own}, indent=1))


def _column(folder: str, name: str) -> list[Any]:
    """One column of a table that is keyed by `item_index`, in its order."""
    return pq.read_table(folder, columns=["item_index", name]).sort_by("item_index")[name].to_pylist()


def _epoch_text(name: str, line: dict[str, Any], epochs: int) -> str:
    loss = f"loss {line['loss']:.3f}" if line["epoch"] else "as pretrained"
    score = f", validation recall@{K} {line['recall@10']:.4f}" if "recall@10" in line else ""
    return f"{name} epoch {line['epoch']:>2}/{epochs}: {loss}{score} ({line['train_seconds']:.1f} s)"

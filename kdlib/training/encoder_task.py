"""The in-domain training of a text encoder as a task of `kdlib.training.trainer`.

Shapes: V items, P pairs of this worker, N validation pairs, U distinct titles, D width.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import nn

from kdlib.config.models import TrainConfig, TrainingConfig
from kdlib.data.batches import STREAM_ROWS
from kdlib.data.windows import read_evaluation_histories
from kdlib.encoders.hugging_face import TextEncoder, encode_texts, encoder_folder, load_tokeniser
from kdlib.teachers.contrastive import (
    held_out_pairs,
    keep_chances,
    learning_rate_at,
    number_titles,
    recall,
    sample_pairs,
    train_epoch,
)
from kdlib.training.engine import make_engine
from kdlib.training.specs import ENCODER_FILE, EncoderSpec
from kdlib.training.trainer import Validation, Weights, Worker, check_finite

K = 10


def encoder_tasks(spec: EncoderSpec, training: TrainingConfig, worker: Worker) -> Iterator["EncoderTask"]:
    """The one task."""
    yield EncoderTask(spec, training, worker)


class EncoderTask:
    """A text encoder that learns from pairs of titles; its pretrained weights count as epoch 0.

    Args:
      spec: what to train.
      training: how the workers train.
      worker: this one.
    """

    patience: int | None = None
    models: dict[str, nn.Module]
    validates_start = True
    seconds: float | None = None
    planned_epochs = 0

    def __init__(self, spec: EncoderSpec, training: TrainingConfig, worker: Worker) -> None:
        adapt = spec.adapt
        self.name, self.seed, self.epochs = spec.name, spec.seed, adapt.epochs
        self._spec, self._worker, self._base = spec, worker, encoder_folder(spec.base)
        self._texts, number_V = number_titles(_column(spec.texts, "title"))
        self._pairs_P2 = _training_pairs(spec, number_V, worker)
        self._held_out_N2 = _validation_pairs(spec, number_V)
        self._batch_size = adapt.batch_size // worker.world
        self._learning_rate = partial(
            learning_rate_at,
            steps=adapt.epochs * max(len(self._pairs_P2) // self._batch_size, 1),
            peak=adapt.learning_rate,
            warmup_fraction=adapt.warmup_fraction,
        )
        self._tokenise = load_tokeniser(self._base, max_tokens=spec.max_tokens)
        module = TextEncoder(self._base, gradient_checkpointing=adapt.gradient_checkpointing).to(worker.device)
        self.engine = make_engine(
            module,
            TrainConfig(
                batch_size=adapt.batch_size,
                learning_rate=adapt.learning_rate,
                weight_decay=adapt.weight_decay,
                gradient_clipping=adapt.gradient_clipping,
            ),
            zero_stage=training.zero_stage,
            workers=worker.world,
            bf16=training.bf16,
        )
        self.models = {"encoder": module.model}

    def train_epoch(self, epoch: int, first_step: int) -> dict[str, float]:
        """See `Task`."""
        figures = train_epoch(
            self.engine,
            self._pairs_P2,
            self._texts,
            self._tokenise,
            batch_size=self._batch_size,
            temperature=self._spec.adapt.temperature,
            learning_rate=self._learning_rate,
            first_step=first_step,
            seed=self.seed * 1_000_003 + epoch * 1_009 + self._worker.rank,
            device=self._worker.device,
        )
        check_finite(figures["loss"], name=self.name, epoch=epoch, settings="adapt.learning_rate")
        return figures

    def validate(self, model: str, weights: Weights) -> Validation:
        """Recall of the true next title among all titles of the validation pairs; computed by the engine."""
        if not len(self._held_out_N2):
            return Validation(None, {})
        worker = self._worker
        unique_U, places = np.unique(self._held_out_N2, return_inverse=True)
        self.engine.eval()
        vectors_UD = encode_texts(
            self.engine,
            [self._texts[title] for title in unique_U],
            self._tokenise,
            batch_size=self._batch_size,
            device=worker.device,
            rank=worker.rank,
            world=worker.world,
        )
        found = recall(vectors_UD, torch.from_numpy(places.reshape(-1, 2)).to(worker.device), k=K)
        return Validation(found, {"recall@10": found})

    def describe(self, line: dict[str, Any]) -> str:
        """The training loss and the validation recall."""
        loss = f"loss {line['loss']:.3f}" if line["epoch"] else "as pretrained"
        score = f", validation recall@{K} {line['recall@10']:.4f}" if "recall@10" in line else ""
        return f"{self.name} epoch {line['epoch']:>2}/{self.epochs}: {loss}{score} ({line['train_seconds']:.1f} s)"

    def gauges(self, line: dict[str, Any]) -> dict[str, float]:
        """None."""
        return {}

    def export(self, weights: dict[str, Weights], log: list[dict[str, Any]]) -> None:
        """Write a Hugging Face folder (configuration, tokeniser, weights) with the metadata beside it."""
        from transformers import AutoTokenizer

        folder = Path(self._spec.export)
        model = TextEncoder(self._base).model
        model.load_state_dict(weights["encoder"])
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(self._base, local_files_only=True).save_pretrained(folder)
        raw = (folder / "model.safetensors").read_bytes()
        kept = max(log, key=lambda line: line["recall@10"]) if len(self._held_out_N2) else log[-1]
        own = {
            "pairs": len(self._pairs_P2) * self._worker.world,
            "validation_pairs": len(self._held_out_N2),
            "epoch": kept["epoch"],
            "epochs": log,
            "sha256": hashlib.sha256(raw).hexdigest(),
            "bytes": len(raw),
            "parameters": model.num_parameters(),
        }
        (folder / ENCODER_FILE).write_text(json.dumps({**self._spec.metadata, **own}, indent=1))


def _training_pairs(spec: EncoderSpec, number_V: np.ndarray, worker: Worker) -> np.ndarray:
    """This worker's pairs as title numbers, int32 [pairs, 2], equally many on every worker."""
    counts_V = np.array(_column(spec.statistics, "num_train")) if spec.statistics else np.ones(len(number_V))
    parts = worker.shard.iter_batches(batch_size=STREAM_ROWS, batch_format="numpy", prefetch_batches=1)
    pairs_P2 = sample_pairs(
        (np.stack([part["item"], part["next_item"]], 1) for part in parts),
        number_V,
        keep_chances(counts_V, popular_factor=spec.adapt.popular_factor),
        max_pairs=-(-spec.adapt.max_pairs // worker.world),
        seed=spec.seed * 1_000 + worker.rank,
    )
    counts = [len(pairs_P2)] * worker.world
    if worker.world > 1:
        dist.all_gather_object(counts, len(pairs_P2))
    if min(counts) == 0 or sum(counts) < 2:
        raise ValueError(
            f"there are too few pairs of texts to train on (pairs a worker: {counts}). Recommendation needs neighbouring"
            " training items with different titles; search needs products with titles and descriptions. Add titles to"
            " the catalogue, lower training.workers, or remove text.adapt"
        )
    return pairs_P2[: min(counts)]


def _validation_pairs(spec: EncoderSpec, number_V: np.ndarray) -> np.ndarray:
    """Validation pairs of different titles, as title numbers, int64 [pairs, 2]; the same on every worker."""
    if spec.judging:
        found = np.stack([pq.read_table(spec.judging)[name].to_numpy() for name in ("item", "next_item")], 1)
    else:
        histories = read_evaluation_histories(
            spec.histories, position_column="validation_position", max_users=spec.adapt.validation_pairs
        )
        found = held_out_pairs(histories)
    pairs_N2 = number_V[found].astype(np.int64)
    return pairs_N2[(pairs_N2 >= 0).all(1) & (pairs_N2[:, 0] != pairs_N2[:, 1])]


def _column(folder: str, name: str) -> list[Any]:
    """One column of a table with `item_index`, in the order of that index."""
    return pq.read_table(folder, columns=["item_index", name]).sort_by("item_index")[name].to_pylist()

"""The training of product search's query encoder as a task of `kdlib.training.trainer`.

Shapes: N queries, P products, E width of the teacher's vectors.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdlib.config.models import TrainConfig, TrainingConfig
from kdlib.data.batches import STREAM_ROWS
from kdlib.encoders.hugging_face import TextEncoder, encoder_folder
from kdlib.search.centring import NO_CENTRE, centre_of_files, centred
from kdlib.search.distil import held_out, train_epoch
from kdlib.search.start import fitted_embeddings
from kdlib.search.student import QueryEncoder, QueryTokens, encode_queries, save_student
from kdlib.teachers.contrastive import learning_rate_at
from kdlib.training.engine import make_engine
from kdlib.training.specs import SearchSpec
from kdlib.training.trainer import Validation, Weights, Worker, check_finite

PRODUCTS_PER_STEP = 1024
MOST_PRODUCTS = 200_000
"""Most products that training compares with; a larger catalogue is sampled evenly."""
MOST_HELD_OUT = 1_000
NEAREST = 10


def search_tasks(spec: SearchSpec, training: TrainingConfig, worker: Worker) -> Iterator["SearchTask"]:
    """The one task."""
    yield SearchTask(spec, training, worker)


class SearchTask:
    """A query encoder that learns to put queries where the teacher puts them.

    Args:
      spec: what to train.
      training: how the workers train.
      worker: this one.
    """

    patience: int | None = None
    models: dict[str, nn.Module]
    validates_start = False
    seconds: float | None = None
    planned_epochs = 0

    def __init__(self, spec: SearchSpec, training: TrainingConfig, worker: Worker) -> None:
        search = spec.search
        self.name, self.seed, self.epochs = spec.name, spec.seed, search.epochs
        self._spec, self._worker = spec, worker
        centre_of = centre_of_files if search.text.loses_mean else lambda files: NO_CENTRE
        products_PE = centred(_read_products(spec.products), centre_of(spec.products))
        self._products_PE = torch.from_numpy(products_PE).to(worker.device)
        self._queries, teacher_NE = _training_queries(worker)
        self._judged, judged_NE = _held_out_queries(spec.held_out)
        centre_E = centre_of(spec.held_out)
        self._teacher_NE, self._judged_NE = centred(teacher_NE, centre_E), centred(judged_NE, centre_E)
        self._tokens = QueryTokens(spec.tokenizer)
        torch.manual_seed(spec.seed)
        embeddings = self._first_embeddings()
        model = QueryEncoder(
            vocabulary=len(embeddings), width=search.width, out=self._products_PE.shape[1], kind=search.student
        )
        model.start_from(embeddings)
        self._options = model.options
        self._batch_size = search.batch_size // worker.world
        self.engine = make_engine(
            model.to(worker.device),
            TrainConfig(
                batch_size=self._batch_size * worker.world, learning_rate=search.learning_rate, weight_decay=0.01
            ),
            zero_stage=min(training.zero_stage, 2),  # two million weights: nothing to partition or to halve
            workers=worker.world,
            bf16=False,
        )
        self.models = {"student": model}
        steps = search.epochs * max(len(self._queries) // self._batch_size, 1)
        self._learning_rate = partial(learning_rate_at, steps=steps, peak=search.learning_rate, warmup_fraction=0.05)

    def _first_embeddings(self) -> Tensor:
        """Vectors of the student's sub-words: the teacher's own, or fitted to its vectors of the training queries."""
        if self._spec.pieces:
            teacher = TextEncoder(encoder_folder(self._spec.encoder)).model
            return teacher.get_input_embeddings().weight.detach()[self._spec.pieces]
        return fitted_embeddings(self._tokens.ids(self._queries), self._teacher_NE, vocabulary=self._tokens.size)

    def train_epoch(self, epoch: int, first_step: int) -> dict[str, float]:
        """See `Task`."""
        figures = train_epoch(
            self.engine,
            self._queries,
            self._teacher_NE,
            self._products_PE,
            self._tokens,
            batch_size=self._batch_size,
            products_per_step=PRODUCTS_PER_STEP,
            misspelt_fraction=self._spec.search.misspelt_fraction,
            learning_rate=self._learning_rate,
            first_step=first_step,
            seed=self.seed * 1_000_003 + epoch * 1_009 + self._worker.rank,
            device=self._worker.device,
        )
        check_finite(figures["loss"], name="search student", epoch=epoch, settings="search.learning_rate")
        return figures

    def validate(self, model: str, weights: Weights) -> Validation:
        """The mean cosine to the teacher on held-out queries, and the share of common nearest products."""
        if not self._judged:
            return Validation(None, {"cosine": 0.0, "overlap@10": 0.0})
        student = QueryEncoder(**self._options)
        student.load_state_dict(weights)
        student_NE, teacher_NE = (
            encode_queries(student.eval(), self._tokens, self._judged),
            torch.from_numpy(self._judged_NE),
        )
        cosine = torch.nn.functional.cosine_similarity(student_NE, teacher_NE, dim=1).mean().item()
        overlap = _common_nearest(student_NE, teacher_NE, self._products_PE.cpu())
        return Validation(cosine, {"cosine": cosine, "overlap@10": overlap})

    def describe(self, line: dict[str, Any]) -> str:
        """The training loss, and how near the student comes to the teacher."""
        return (
            f"search student epoch {line['epoch']:>2}/{self.epochs}: loss {line['loss']:.3f} | held-out queries: cosine to"
            f" the teacher {line['cosine']:.3f}, {line['overlap@10']:.0%} of its ten nearest products"
            f" ({line['train_seconds']:.1f} s)"
        )

    def gauges(self, line: dict[str, Any]) -> dict[str, float]:
        """None."""
        return {}

    def export(self, weights: dict[str, Weights], log: list[dict[str, Any]]) -> None:
        """Write the student with its tokeniser and its words."""
        spec, kept = self._spec, max(log, key=lambda line: line["cosine"])
        own = {
            **{name: kept[name] for name in ("epoch", "cosine", "overlap@10")},
            "held_out": len(self._judged),
            "queries": len(self._queries) * self._worker.world,
            "epochs": log,
        }
        save_student(
            Path(spec.export),
            self._options,
            weights["student"],
            spec.tokenizer,
            spec.words,
            {**spec.metadata, **own},
        )


def _read_products(files: list[str]) -> np.ndarray:
    """The teacher's product vectors, float32 [products, E], at most about `MOST_PRODUCTS`."""
    step = -(-sum(pq.read_metadata(file).num_rows for file in files) // MOST_PRODUCTS)
    parts = [_vectors(pq.read_table(file, columns=["vector"]))[::step] for file in files]
    return np.concatenate(parts)


def _training_queries(worker: Worker) -> tuple[list[str], np.ndarray]:
    """This worker's training queries and the teacher's vectors of them, equally many on every worker."""
    batches = worker.shard.iter_batches(batch_size=STREAM_ROWS, batch_format="pyarrow")
    parts = [part for part in batches if len(part)]
    table = pa.concat_tables(parts).sort_by("query") if parts else None  # the order of the blocks may vary
    queries = table["query"].to_pylist() if table else []
    learnt = np.array([not held_out(query) for query in queries], bool)
    counts = [int(learnt.sum())] * worker.world
    if worker.world > 1:
        dist.all_gather_object(counts, int(learnt.sum()))
    if min(counts) == 0 or table is None:
        raise ValueError(
            f"there are too few queries to learn from (queries a worker: {counts}). Give the catalogue titles of several"
            " words, or lower training.workers"
        )
    places = np.flatnonzero(learnt)[: min(counts)]
    return [queries[place] for place in places], _vectors(table)[places]


def _held_out_queries(files: list[str]) -> tuple[list[str], np.ndarray]:
    """Queries that no worker learns from, and the teacher's vectors of them: the same on every worker."""
    table = pq.read_table(files)
    queries = table["query"].to_pylist()
    places = [place for place, query in enumerate(queries) if held_out(query)][:MOST_HELD_OUT]
    vectors = _vectors(table.take(places)) if places else np.zeros((0, 1), np.float32)
    return [queries[place] for place in places], vectors


def _common_nearest(student_NE: Tensor, teacher_NE: Tensor, products_PE: Tensor) -> float:
    """Share of the teacher's nearest products that are among the student's, the mean over queries."""
    k, common = min(NEAREST, len(products_PE)), 0.0
    for start in range(0, len(student_NE), 128):
        ours, theirs = (
            (vectors[start : start + 128] @ products_PE.T).topk(k).indices for vectors in (student_NE, teacher_NE)
        )
        common += (ours[:, :, None] == theirs[:, None]).any(2).float().mean(1).sum().item()
    return common / len(student_NE)


def _vectors(table: pa.Table) -> np.ndarray:
    """The column `vector`, float32 [rows, E]."""
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(len(table), -1)

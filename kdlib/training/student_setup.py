"""The parts of a student's training: the models, what they start from, the teachers, the loss.

Shapes: V items, E text width, M codes an item, S codewords a table, d their width.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import torch
from torch import Tensor

from kdlib.config.models import ModelConfig, TrainConfig, TrainingConfig
from kdlib.data.folds import outside_fold, training_counts
from kdlib.data.windows import whole_histories
from kdlib.models.files import load_model, serves
from kdlib.models.sequence import SequenceModel
from kdlib.models.warm import start_from
from kdlib.teachers.item_codes import read_item_codes
from kdlib.teachers.item_features import read_item_features
from kdlib.teachers.item_space import start_item_table
from kdlib.teachers.text import read_title_vectors
from kdlib.training.engine import scoring_dtype
from kdlib.training.module import CachedTeachers, NextItemTraining, Ranking
from kdlib.training.specs import StudentsSpec, TrainingRun
from kdlib.training.stand_ins import COUNT_FLOOR, STATELESS, stateless_teacher


def training_module(
    run: TrainingRun, spec: StudentsSpec, training: TrainingConfig, device: torch.device
) -> NextItemTraining:
    """The module that the engine trains, on the device; the same weights on every worker."""
    torch.manual_seed(run.seed)
    counts_V, in_windows_V = counts_of(run, spec)
    trained_V = torch.from_numpy(in_windows_V > 0)
    build = partial(
        build_model,
        item_features=run.item_features,
        trained_V=trained_V,
        num_items=spec.num_items,
        max_length=training.max_length,
    )
    student = build(run.model, run.title_vectors, run.features, user_columns=run.user_columns, codes=run.codes)
    if run.start is not None:
        start_from(student, load_model(Path(run.start))[0])
    elif run.item_start == "teachers":
        taught_V = torch.from_numpy(item_counts(run.statistics)[1] > 0)  # the teachers never train on what is held out
        start_item_table(student, *_heads(run, spec.num_items), taught_V, seed=run.seed)
    teacher = None
    if run.teacher is not None:
        read = run.teacher_title_vectors, run.teacher_features
        teacher = build(run.teacher, *read, user_columns=run.teacher_user_columns)
    return NextItemTraining(
        student,
        teacher=teacher,
        cached=stateless_teacher(run.stand_in, counts_V, device=device) or _cached(run, spec.num_items, device),
        draws=run.targets == "sampled" and run.stand_in not in STATELESS,
        kl_weight=run.kl_weight,
        temperature=run.temperature,
        ranking=ranking_of(run.train, counts_V, device),
        hidden_weight=run.hidden_weight,
        dtype=scoring_dtype(device, bf16=training.bf16),
    ).to(device)


def build_model(
    model: ModelConfig,
    title_vectors: str | None,
    features: Sequence[str] = (),
    *,
    item_features: str | None = None,
    trained_V: Tensor,
    num_items: int,
    max_length: int,
    user_columns: Mapping[str, int] | None = None,
    codes: tuple[str, str] | None = None,
) -> SequenceModel:
    """An untrained model.

    Args:
      model: its settings.
      title_vectors: folder of the title vectors that it reads.
      features: the item features that it reads.
      item_features: their folder.
      trained_V: bool; the items with training interactions.
      num_items: V.
      max_length: longest window.
      user_columns: the features of the users that it reads, see `SequenceModel`.
      codes: folders of the item codes and of the codebooks.
    """
    vectors, values = [], None
    if title_vectors is not None:
        vectors.append(torch.from_numpy(read_title_vectors(Path(title_vectors))))
    if features:
        assert item_features is not None, "the job hands in the folder of the features"
        read = read_item_features(Path(item_features), features, num_items=num_items)
        values, more = read.values, read.vectors_VE
        vectors += [] if more is None else [more]
    codes_VM, tables_MSd = (None, None) if codes is None else read_item_codes(Path(codes[0]), Path(codes[1]))
    return SequenceModel(
        num_items=num_items,
        max_length=max_length,
        text_vectors_VE=torch.cat(vectors, 1) if vectors else None,
        item_values=values,
        trained_V=trained_V,
        user_columns=user_columns,
        codes_VM=codes_VM,
        code_tables_MSd=tables_MSd,
        **model.model_dump(mode="json"),
    )


def item_counts(statistics: str) -> np.ndarray:
    """`num_train` and `num_in_windows` by item index, int64 [2, items], from a folder of the item statistics."""
    columns = ["item_index", "num_train", "num_in_windows"]
    table = pads.dataset(statistics, format="parquet").to_table(columns=columns).sort_by("item_index")
    return np.stack([table[name].to_numpy() for name in columns[1:]])


def ranking_of(train: TrainConfig, counts_V: np.ndarray, device: torch.device) -> Ranking | None:
    """The loss over sampled negatives; None for the cross-entropy over all items."""
    if train.loss == "cross_entropy":
        return None
    weights = None
    if train.negative_sampling == "popularity":
        weights = torch.from_numpy(np.maximum(counts_V, COUNT_FLOOR).astype(np.float32)).to(device)
    return Ranking(train.negatives, weights)


def counts_of(run: TrainingRun, spec: StudentsSpec) -> np.ndarray:
    """`item_counts` of what the run is trained on."""
    if spec.whole:
        return training_counts(spec.histories, whole_histories, num_items=spec.num_items)
    if spec.without_fold is None:
        return item_counts(run.statistics)
    fold, folds = spec.without_fold
    return training_counts(spec.histories, partial(outside_fold, fold=fold, folds=folds), num_items=spec.num_items)


def _cached(run: TrainingRun, num_items: int, device: torch.device) -> CachedTeachers | None:
    """The heads of the cached hidden states; None if the data has no hidden states."""
    if not run.cached or run.targets == "sampled":
        return None
    heads, weights = _heads(run, num_items)
    moved = [(matrix.to(device), None if bias is None else bias.to(device)) for matrix, bias in heads]
    return CachedTeachers(moved, weights)


def _heads(run: TrainingRun, num_items: int) -> tuple[list[tuple[Tensor, Tensor | None]], list[float]]:
    """Scoring matrix and bias of each finished teacher, and the teachers' weights. Rules and functions have none."""
    heads, weights = [], []
    for folder, weight in run.cached:
        if not serves(Path(folder)):
            continue
        model, metadata = load_model(Path(folder))
        assert metadata["num_items"] == num_items, "the job checks the vocabulary before it starts"
        heads.append(model.head())
        weights.append(weight)
    return heads, weights

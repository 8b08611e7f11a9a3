"""What runs in each Ray Train worker: take the shard, make the DeepSpeed engine, train, validate, checkpoint, export."""

import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from kdlib.config.models import TrainConfig
from kdlib.data.batches import Batch, WindowStore, shuffled_batches, store_from_tables
from kdlib.data.folds import training_counts_outside
from kdlib.data.windows import EvaluationRows, evaluation_rows, ragged, read_evaluation_histories
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.ranking import hit_rate, ndcg
from kdlib.models.files import as_served, is_whole, load_model, load_predictor, save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.warm import start_from
from kdlib.teachers.item_codes import read_item_codes
from kdlib.teachers.item_space import start_item_table
from kdlib.teachers.text import read_title_vectors
from kdlib.training.controls import (
    COUNT_FLOOR,
    STATELESS,
    permute_teacher_states,
    popularity_teacher,
    uniform_teacher,
)
from kdlib.training.engine import full_weights, make_engine, scoring_dtype
from kdlib.training.loop import train_epoch
from kdlib.training.module import CachedTeachers, NextItemTraining, Ranking

DIVERGED = 10.0
"""A mean cross-entropy of more than so many times that of guessing evenly is no start that a model recovers from."""
READ_ROWS = 8_192
"""Windows read at a time until it is known whether the shard fits in memory."""
LEAST_ROWS, STREAM_ROWS = 1_024, 65_536
"""Windows held at a time where it does not: bounds."""


class _Shard:
    """This worker's training data: in memory when every worker's fits, else streamed from Ray Data each epoch."""

    def __init__(self, iterator: Any, *, teachers: int, resident_bytes: int, world: int) -> None:
        self._iterator, self._teachers = iterator, teachers
        held: list[pa.Table] | None = []
        size = rows = items = 0
        for table in self._tables(READ_ROWS):
            held.append(table)
            size, rows = size + table.nbytes, rows + len(table)
            items += len(ragged(table["items"])[0])
            if size > resident_bytes:
                held = None
                break
        facts = [(-1 if held is None else rows, size // max(rows, 1), items / max(rows, 1) - 1)] * world
        if world > 1:
            dist.all_gather_object(facts, facts[0])
        counts = [count for count, *_ in facts]
        self.positions_a_window = sum(mean for *_, mean in facts) / world
        """The same on all workers; where the data does not fit, of what was read of it until then."""
        self._rows = _stream_rows(resident_bytes, [size for _, size, _ in facts])
        if 0 in counts:
            raise ValueError(
                f"a worker got no training windows (windows a worker: {counts}):"
                " fewer users with two or more training items than workers; lower training.workers"
            )
        self._resident: WindowStore | None = None
        if held is not None and min(counts) > 0:
            # workers that take different numbers of steps would wait for each other for ever
            self._resident = store_from_tables([pa.concat_tables(held).slice(0, min(counts))], teachers=teachers)

    def _tables(self, rows: int) -> Iterator[pa.Table]:
        yield from self._iterator.iter_batches(batch_size=rows, batch_format="pyarrow", prefetch_batches=1)

    def batches(self, *, batch_size: int, seed: int, permute_seed: int | None = None) -> Iterator[Batch]:
        """One epoch; with `permute_seed` the teachers' states are exchanged between the positions held at a time."""
        if self._resident is not None:
            yield from shuffled_batches(_permuted(self._resident, permute_seed), batch_size=batch_size, seed=seed)
            return
        for number, table in enumerate(self._tables(self._rows)):
            store = _permuted(store_from_tables([table], teachers=self._teachers), permute_seed)
            yield from shuffled_batches(store, batch_size=batch_size, seed=seed + number)


def _stream_rows(resident_bytes: int, window_bytes: list[int]) -> int:
    """Windows to hold at a time, the same on all workers, which take equally many steps; a table, the next one and the
    store made of it are in memory at once.

    Args:
      resident_bytes: what they may take together.
      window_bytes: mean size of a window, one a worker.
    """
    return max(LEAST_ROWS, min(STREAM_ROWS, resident_bytes // (4 * max(*window_bytes, 1))))


def _permuted(store: WindowStore, seed: int | None) -> WindowStore:
    return store if seed is None else permute_teacher_states(store, seed=seed)


def train_worker(spec: dict[str, Any]) -> None:
    """Ray Train's training function; `spec` is described by `jobs.runtime.ray_train.fit`."""
    import ray.train
    import ray.train.torch

    settings = spec["settings"]
    torch.set_num_threads(settings["threads_per_worker"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    shard = _Shard(
        ray.train.get_dataset_shard("train"),
        teachers=spec["num_teachers"],
        resident_bytes=settings["resident_megabytes"] * 2**20,
        world=world,
    )
    held_out = read_evaluation_histories(
        spec["histories"],
        position_column="validation_position",
        max_users=settings["max_validation_users"],
        part=rank,
        parts=world,
    )
    rows = evaluation_rows(held_out, position_column="validation_position")
    for run in spec["runs"]:
        if is_whole(Path(run["export"])):  # finished before a failure
            continue
        _train_one(run, spec, shard, rows, rank=rank, world=world, device=ray.train.torch.get_device())
        if world > 1:
            dist.barrier()


def _train_one(
    run: dict[str, Any],
    spec: dict[str, Any],
    shard: _Shard,
    rows: EvaluationRows,
    *,
    rank: int,
    world: int,
    device: torch.device,
) -> None:
    import ray.train

    settings, train, num_items = spec["settings"], run["train"], spec["facts"]["vocabulary_items"]
    torch.manual_seed(run["seed"])
    shape = {"num_items": num_items, "max_length": settings["max_length"]}
    counts_V, in_windows_V = _train_counts(run["statistics"], spec)
    trained_V = torch.from_numpy(in_windows_V > 0)
    student = _build(run["model"] | shape, run["title_vectors"], trained_V, codes=run["codes"])
    if run["start"] is not None:
        start_from(student, load_model(Path(run["start"]))[0])
    elif run["item_start"] == "teachers":
        start_item_table(student, *_heads(run, num_items), trained_V, seed=run["seed"])
    teacher = run["teacher"] and _build(run["teacher"] | shape, run["teacher_title_vectors"], trained_V)
    module = NextItemTraining(
        student,
        teacher=teacher,
        cached=_control(run, counts_V, device) or _cached(run, num_items, device),
        draws=run["targets"] == "sampled" and run["control"] not in STATELESS,
        kl_weight=run["kl_weight"],
        temperature=run["temperature"],
        ranking=_ranking(run, counts_V, device),
        hidden_weight=run["hidden_weight"],
        dtype=scoring_dtype(device, bf16=settings["bf16"]),
    ).to(device)
    engine = make_engine(
        module,
        TrainConfig(**train),
        zero_stage=settings["zero_stage"],
        workers=world,
        bf16=settings["bf16"] and device.type == "cuda",
    )
    exports = {"student": run["stored_as"], "teacher": "float32"}
    best = {name: _Best() for name in ("student", "teacher") if getattr(module, name) is not None}
    state: dict[str, Any] = {"run": run["name"], "epoch": 0, "steps": 0, "log": []}
    _resume(engine, best, state, ray.train.get_checkpoint())
    while state["epoch"] < train["epochs"] and best["student"].stale < train["patience"]:
        epoch, started = state["epoch"], time.monotonic()
        # dropout: other draws in each worker, and after a checkpoint the same as without the break
        torch.manual_seed(run["seed"] + 1000 * (rank + 1) + 1_000_003 * epoch)
        figures = train_epoch(
            engine,
            shard.batches(
                batch_size=train["batch_size"] // world,
                seed=run["seed"] * 1_000_003 + epoch,
                permute_seed=run["seed"] if run["control"] == "permuted" else None,
            ),
            device=device,
            learning_rate=_learning_rate(train, epoch),
            warmup_steps=train["warmup_steps"],
            positions_a_step=shard.positions_a_window * (train["batch_size"] // world) * world,
            first_step=state["steps"],
        )
        _check_loss(figures, run, epoch + 1, num_items)
        state["epoch"], state["steps"] = epoch + 1, state["steps"] + figures["steps"]
        line = {"run": run["name"], "epoch": epoch + 1, **figures, "train_seconds": time.monotonic() - started}
        for name, record in best.items():
            weights = full_weights(engine, getattr(module, name))
            scores = _validate(getattr(module, name), weights, exports[name], rows, device=device, world=world)
            line |= {f"{name}_{metric}": value for metric, value in scores.items()}
            record.update(scores["ndcg@10"], weights, has_rows=scores["rows"] > 0)
        state["log"] = [*state["log"], line]
        if rank == 0:
            with Path(spec["report"]).open("a") as stream:
                stream.write(json.dumps({"text": _epoch_text(line, run, train["epochs"], best)}) + "\n")
            _observe(line)
        _checkpoint(engine, best, state, line, rank=rank)
    if rank == 0:
        folders = {"student": run["export"], "teacher": run["teacher_export"]}
        for name, record in reversed(best.items()):  # the student's last: it marks the run as finished
            own = {
                "name": run["name"] if name == "student" else f"{run['name']}_teacher",
                "seed": run["seed"],
                "kl_weight": run["kl_weight"],
                "temperature": run["temperature"],
                "warm_nights": run["warm_nights"],
                "validation": _best_epoch(state["log"], name),
                "epochs": state["log"],
            }
            save_model(
                Path(folders[name]),
                getattr(module, name),
                record.weights,
                {**spec["facts"], **own},
                export=exports[name],
            )
    engine.destroy()


def _check_loss(figures: dict[str, float], run: dict[str, Any], epoch: int, num_items: int) -> None:
    """FloatingPointError where training has lost its way: a model of that would be published as any other."""
    if not math.isfinite(figures["student_ce"] + figures["kl"] + figures["teacher_ce"]):
        raise FloatingPointError(
            f"{run['name']}: the loss is not finite in epoch {epoch}; lower learning_rate or kl_weight"
        )
    worst, uniform = max(figures["student_ce"], figures["teacher_ce"]), math.log(num_items)
    if run["train"]["loss"] == "cross_entropy" and worst > DIVERGED * uniform:
        raise FloatingPointError(
            f"{run['name']}: the loss has diverged in epoch {epoch}: cross-entropy {worst:.4g} nats, where guessing has"
            f" {uniform:.2f}; lower learning_rate or kl_weight"
        )


def _observe(line: dict[str, Any]) -> None:
    """An epoch among Ray's metrics, where Prometheus finds it while training goes on (`ray_distilrec_…`)."""
    from ray.util.metrics import Gauge

    values = {
        "epoch": line["epoch"],
        "positions_per_second": line["positions"] / line["train_seconds"],
        "data_wait_share": line["data_wait_seconds"] / line["train_seconds"],
        "ndcg": line["student_ndcg@10"],
    }
    for name, value in values.items():
        Gauge(f"distilrec_training_{name}", tag_keys=("model",)).set(value, tags={"model": line["run"]})


def _best_epoch(log: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Number and validation metrics of the epoch whose weights are kept; the last one where no user validates."""
    validated = log[-1][f"{name}_rows"] > 0
    line = max(log, key=lambda one: one[f"{name}_ndcg@10"]) if validated else log[-1]
    return {"epoch": line["epoch"]} | {metric: line[f"{name}_{metric}"] for metric in _SHOWN.values()}


def _build(
    options: dict[str, Any],
    title_vectors: str | None,
    trained_V: torch.Tensor,
    *,
    codes: tuple[str, str] | None = None,
) -> SequenceModel:
    vectors = None if title_vectors is None else torch.from_numpy(read_title_vectors(Path(title_vectors)))
    codes_VM, tables_MSd = (None, None) if codes is None else read_item_codes(Path(codes[0]), Path(codes[1]))
    return SequenceModel(
        **options, text_vectors_VE=vectors, trained_V=trained_V, codes_VM=codes_VM, code_tables_MSd=tables_MSd
    )


def _cached(run: dict[str, Any], num_items: int, device: torch.device) -> CachedTeachers | None:
    """The heads that the cached hidden states belong to, if there are such states."""
    if not run["cached"] or run["targets"] == "sampled":
        return None
    heads, weights = _heads(run, num_items)
    moved = [(matrix.to(device), None if bias is None else bias.to(device)) for matrix, bias in heads]
    return CachedTeachers(moved, weights)


def _heads(run: dict[str, Any], num_items: int) -> tuple[list[tuple[torch.Tensor, torch.Tensor | None]], list[float]]:
    """What the finished teachers score items with, and their weights; rules have no item table."""
    heads, weights = [], []
    for folder, weight in run["cached"]:
        model, facts = load_predictor(Path(folder))
        assert facts["num_items"] == num_items, "the job checks the vocabulary before it starts"
        if isinstance(model, SequenceModel):
            heads.append(model.head())
            weights.append(weight)
    return heads, weights


def _control(run: dict[str, Any], counts_V: np.ndarray, device: torch.device) -> CachedTeachers | None:
    """What predicts in the cached teachers' place, if anything does."""
    if run["control"] == "uniform":
        return uniform_teacher(len(counts_V), device=device)
    if run["control"] == "popularity":
        return popularity_teacher(counts_V, device=device)
    return None


def _ranking(run: dict[str, Any], counts_V: np.ndarray, device: torch.device) -> Ranking | None:
    """The run's loss over sampled negatives, if it has one."""
    train, weights = run["train"], None
    if train["loss"] == "cross_entropy":
        return None
    if train["negative_sampling"] == "popularity":
        weights = torch.from_numpy(np.maximum(counts_V, COUNT_FLOOR).astype(np.float32)).to(device)
    return Ranking(train["negatives"], weights)


def _train_counts(folder: str, spec: dict[str, Any]) -> np.ndarray:
    """`num_train` and `num_in_windows` by item index, int64 [2, items]; without those of the fold that is left out."""
    facts = spec["facts"]
    if "fold" in facts:
        fold = {name: facts[name] for name in ("fold", "folds")}
        return training_counts_outside(spec["histories"], **fold, num_items=facts["vocabulary_items"])
    columns = ["item_index", "num_train", "num_in_windows"]
    statistics = pads.dataset(folder, format="parquet").to_table(columns=columns).sort_by("item_index")
    return np.stack([statistics[name].to_numpy() for name in columns[1:]])


def _learning_rate(train: dict[str, Any], epoch: int) -> float:
    done = epoch / max(train["epochs"] - 1, 1)
    return train["learning_rate"] * (1.0 - (1.0 - train["final_learning_rate_fraction"]) * done)


class _Best:
    """The best epoch's weights of one model."""

    def __init__(self) -> None:
        self.score, self.stale, self.weights = -1.0, 0, {}

    def update(self, score: float, weights: dict[str, torch.Tensor], *, has_rows: bool) -> None:
        if score > self.score or not has_rows:
            self.score, self.stale, self.weights = score, 0, weights
        else:
            self.stale += 1


def _validate(
    model: SequenceModel,
    weights: dict[str, torch.Tensor],
    export: Literal["float32", "int8"],
    rows: EvaluationRows,
    *,
    device: torch.device,
    world: int,
) -> dict[str, float]:
    """Validation metrics over all workers' rows, of the model as it would be exported."""
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    if len(rows):
        plain = SequenceModel(**model.options)
        plain.load_state_dict(as_served(model, weights, export))
        ranks = ranks_of_models([plain.to(device).eval()], [1.0], rows, device=device).ranks
        sums += torch.tensor(
            [ndcg(ranks, 10).sum(), hit_rate(ranks, 10).sum(), hit_rate(ranks, 1).sum(), len(ranks)], device=device
        )
    if world > 1:
        dist.all_reduce(sums)
    total = max(sums[3].item(), 1.0)
    return {
        "ndcg@10": sums[0].item() / total,
        "recall@10": sums[1].item() / total,
        "accuracy@1": sums[2].item() / total,
        "rows": sums[3].item(),
    }


def _epoch_text(line: dict[str, Any], run: dict[str, Any], epochs: int, best: dict[str, _Best]) -> str:
    """One line for the person: training loss and accuracy, then each model's validation metrics."""
    text = f"{run['name']} epoch {line['epoch']:>2}/{epochs}: "
    data = "CE" if run["train"]["loss"] == "cross_entropy" else run["train"]["loss"]
    if run["teacher"] or run["cached"]:
        weight = run["kl_weight"]
        text += f"loss {line['student_ce'] + weight * line['kl']:.3f} = {data} {line['student_ce']:.3f}"
        text += f" + {weight:g}·KL {line['kl']:.3f}"
        text += " (and the hidden-state match)" if run["hidden_weight"] else ""
    else:
        text += f"{data} {line['student_ce']:.3f}"
    text += f", accuracy {line['accuracy']:.4f}"
    if run["teacher"]:
        text += f", teacher CE {line['teacher_ce']:.3f}"
    for name in best:
        scores = [f"{label} {line[f'{name}_{metric}']:.4f}" for label, metric in _SHOWN.items()]
        text += f" | {'teacher ' if name == 'teacher' else ''}validation {', '.join(scores)}"
    return text + f" ({line['train_seconds']:.1f} s)"


_SHOWN = {"accuracy": "accuracy@1", "recall@10": "recall@10", "NDCG@10": "ndcg@10"}


def _checkpoint(engine: Any, best: dict[str, _Best], state: dict[str, Any], line: dict[str, Any], *, rank: int) -> None:
    """Each rank gives Ray its part of the checkpoint; all ranks report equally often."""
    import ray.train

    with tempfile.TemporaryDirectory(prefix="distilrec-checkpoint-") as folder:
        engine.save_checkpoint(folder, tag="state", client_state={"distilrec": state})
        if rank == 0:
            facts = {name: {"score": record.score, "stale": record.stale} for name, record in best.items()}
            Path(folder, "best.json").write_text(json.dumps({"run": state["run"], "best": facts}))
            for name, record in best.items():
                save_file(record.weights, Path(folder, f"best_{name}.safetensors"))
        figures = {name: value for name, value in line.items() if isinstance(value, float)}
        ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _resume(engine: Any, best: dict[str, _Best], state: dict[str, Any], checkpoint: Any) -> None:
    """Go on where the last checkpoint of the same run stands."""
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        facts = json.loads(Path(folder, "best.json").read_text())
        if facts["run"] != state["run"]:
            return
        _, client = engine.load_checkpoint(folder, tag="state")
        state.update(client["distilrec"])
        for name, record in best.items():
            record.score, record.stale = facts["best"][name]["score"], facts["best"][name]["stale"]
            record.weights = load_file(Path(folder, f"best_{name}.safetensors"))

"""RePlay's SasRec on a split made by `run_peers.py`; runs in an environment with `replay-rec[torch]==0.22.0` alone.

Recipes (each flag overrides one value); all use Adam, betas (.9, .98), no weight decay (`OptimizerFactory` defaults):

- `library` (default): what `SasRec.from_params` 0.22.0 gives unasked: 192 wide, 2 blocks, 4 heads, dropout .3, length
  50, cross-entropy over all items; learning rate .001 is `OptimizerFactory`'s default; batch 256, at most 200 epochs and
  patience 20 are those of RePlay's own Amazon benchmark (next line).
- `wide`: RePlay's benchmark of Amazon Beauty, github.com/sb-ai-lab/RePlay, `replay_benchmarks/configs/model/sasrec_beauty.yaml`:
  1024 wide, 1 block, 2 heads, dropout .2, batch 256, 200 epochs; its runner stops after `epochs // 10` = 20 bad epochs
  and hands on the learning rate alone, not the weight decay that the file also names (`train_runner.py`).
- `deep`: its benchmark of Amazon Games, `sasrec_games.yaml`: 256 wide, 2 blocks, 2 heads, dropout .35, length 100,
  learning rate .0002, batch 256, 20 epochs, patience 4 as the file says (the runner's rule would give 2).

Those two files come from RePlay's older SasRec and from another split of the same data, so choose among the recipes by
the validation NDCG@10 that each run reports. `--negatives N` trains with RePlay's sampled cross-entropy (`CESampled`, N
uniform negatives a batch) instead of the whole catalogue: much cheaper on a CPU. `--minutes N` starts no epoch after N minutes
of training: what a CPU can afford. `--limit-batches N` ends an epoch after N batches: for timings.

Reads `split.npz`, writes `top.npz` (`top` int64 [users, 10]) and `facts.json` into `--work`.
"""

# pyright: reportMissingImports=false
# the peer's packages are not in this project's environment

import argparse
import importlib.metadata
import json
import platform
import time
import warnings
from datetime import timedelta
from pathlib import Path

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from batch_clock import BatchClock
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import ComputeMetricsCallback, TorchTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.loss import CESampled
from replay.nn.sequential import SasRec
from replay.nn.transform import UniformNegativeSamplingTransform
from replay.nn.transform.template import make_default_sasrec_transforms

K = 10
MONITOR = "ndcg@10"
COMMON = {
    "max_length": 50,
    "learning_rate": 0.001,
    "batch_size": 256,
    "negatives": 0,
    "epochs": 200,
    "patience": 20,
    "minutes": 0,
    "limit_batches": 0,
}
RECIPES = {
    "library": {"dim": 192, "blocks": 2, "heads": 4, "dropout": 0.3} | COMMON,
    "wide": {"dim": 1024, "blocks": 1, "heads": 2, "dropout": 0.2} | COMMON,
    "deep": {"dim": 256, "blocks": 2, "heads": 2, "dropout": 0.35}
    | COMMON
    | {"max_length": 100, "learning_rate": 0.0002, "epochs": 20, "patience": 4},
}


class Clock(BatchClock, lightning.Callback):
    """As the trainer takes it."""


class EpochLine(lightning.Callback):
    """Prints one line an epoch."""

    def on_validation_end(self, trainer, pl_module) -> None:
        del pl_module
        value = float(trainer.callback_metrics[MONITOR])
        print(f"epoch {trainer.current_epoch + 1}: validation NDCG@10 {value:.5f}", flush=True)


def write_parts(split, folder: Path) -> int:
    """The three Parquet files that RePlay's `ParquetModule` reads; returns the longest history's length.

    train: histories without their last item. validate: the same with that item as `ground_truth` and as seen what
    stands before it. predict: whole histories, all of it seen.
    """
    histories = np.split(split["items"], split["offsets"][1:-1])
    users = pa.array(np.arange(len(histories)))
    known = pa.array([history[:-1] for history in histories], pa.list_(pa.int64()))
    whole = pa.array(histories, pa.list_(pa.int64()))
    target = pa.array([history[-1:] for history in histories], pa.list_(pa.int64()))
    pq.write_table(pa.table({"user_id": users, "item_id": known}), folder / "train.parquet")
    validate = {"user_id": users, "item_id": known, "seen_ids": known, "ground_truth": target}
    pq.write_table(pa.table(validate), folder / "validate.parquet")
    pq.write_table(pa.table({"user_id": users, "item_id": whole, "seen_ids": whole}), folder / "predict.parquet")
    return max(len(history) for history in histories)


def make_data(schema: TensorSchema, options: argparse.Namespace, longest: int, num_items: int) -> ParquetModule:
    """RePlay's data module with its default SasRec transforms, and its negative sampler where asked for."""
    transforms = make_default_sasrec_transforms(schema)
    if options.negatives:
        transforms["train"].append(UniformNegativeSamplingTransform(num_items, options.negatives))
    items = {"item_id": {"shape": options.max_length, "padding": num_items}}
    seen = {"seen_ids": {"shape": longest, "padding": -1}}
    return ParquetModule(
        batch_size=options.batch_size,
        metadata={
            # one more than the model's length: the next-token shift takes one
            "train": {"user_id": {}, "item_id": {"shape": options.max_length + 1, "padding": num_items}},
            "validate": {"user_id": {}, **items, **seen, "ground_truth": {"shape": 1, "padding": -1}},
            "predict": {"user_id": {}, **items, **seen},
        },
        transforms=transforms,
        config={
            # shuffled in one partition; the device of `--device`, not whatever the machine has
            "train": {"generator": torch.Generator().manual_seed(options.seed), "device": torch.device(options.device)},
            "validate": {"device": torch.device(options.device)},
            "predict": {"device": torch.device(options.device)},
        },
        train_path=str(options.work / "train.parquet"),
        validate_path=str(options.work / "validate.parquet"),
        predict_path=str(options.work / "predict.parquet"),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="library")
    for name, value in RECIPES["library"].items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value))
    options = parser.parse_args()
    for name, value in RECIPES[options.recipe].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Fit with early stopping, load the best epoch's weights, take the top 10 of all users."""
    options = _arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    lightning.seed_everything(options.seed, workers=True)
    split = np.load(options.work / "split.npz")
    num_users, num_items = len(split["offsets"]) - 1, int(split["num_items"])
    longest = write_parts(split, options.work)
    schema = TensorSchema(
        [
            TensorFeatureInfo(
                "item_id",
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                embedding_dim=options.dim,
                padding_value=num_items,
                cardinality=num_items,
                feature_hint=FeatureHint.ITEM_ID,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
            )
        ]
    )
    model = SasRec.from_params(
        schema,
        embedding_dim=options.dim,
        num_heads=options.heads,
        num_blocks=options.blocks,
        max_sequence_length=options.max_length,
        dropout=options.dropout,
    )
    if options.negatives:
        model = SasRec(body=model.body, loss=CESampled())
    module = LightningModule(model, optimizer_factory=OptimizerFactory(learning_rate=options.learning_rate))
    data = make_data(schema, options, longest, num_items)
    unseen = [SeenItemsFilter(num_items)]
    metrics = ComputeMetricsCallback(metrics=["ndcg"], ks=[K], postprocessors=unseen, verbose=False)
    timer = Timer(timedelta(minutes=options.minutes) if options.minutes else None, interval="epoch")
    checkpoint = ModelCheckpoint(dirpath=options.work, filename="best", monitor=MONITOR, mode="max")
    clock = Clock()
    stopping = EarlyStopping(monitor=MONITOR, mode="max", patience=options.patience)
    lists = TorchTopItemsCallback(top_k=K, query_column="user_id", postprocessors=unseen)
    quiet = {
        "accelerator": "gpu" if options.device == "cuda" else "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        limit_train_batches=options.limit_batches or 1.0,
        callbacks=[clock, metrics, EpochLine(), stopping, checkpoint, timer],
        **quiet,
    )
    processor_started = time.process_time()
    trainer.fit(module, datamodule=data)
    processor_seconds = time.process_time() - processor_started
    state = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=False)["state_dict"]
    module.load_state_dict(state)
    started = time.perf_counter()
    lightning.Trainer(callbacks=[lists], **quiet).predict(module, datamodule=data, return_predictions=False)
    recommend_seconds = time.perf_counter() - started
    users, items, _ = lists.get_result()
    top = np.full((num_users, K), -1, np.int64)
    top[users.flatten().cpu().numpy()] = items.cpu().numpy()
    np.savez(options.work / "top.npz", top=top)
    by_epoch = metrics.get_metrics()
    course = [by_epoch[epoch][MONITOR] for epoch in sorted(by_epoch)]
    training = timer.time_elapsed("train") - timer.time_elapsed("validate")
    facts = {
        "settings": {name: getattr(options, name) for name in ("recipe", "device", *RECIPES["library"])},
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": {
            "ndcg10": max(course),
            "best_epoch": int(np.argmax(course)) + 1,
            "epochs": len(course),
            "course": [round(value, 5) for value in course],
        },
        "seconds": {
            "epoch": round(training / len(course), 2),
            "batch": round(clock.seconds(), 4),
            "validation": round(timer.time_elapsed("validate") / len(course), 2),
            "recommend": round(recommend_seconds, 2),
            "processor": round(
                processor_seconds, 1
            ),  # of the whole fit: on a shared machine the wall clock says little
        },
        "versions": {
            name: importlib.metadata.version(name) for name in ("replay-rec", "torch", "lightning", "numpy", "pyarrow")
        }
        | {"python": platform.python_version()},
        "hardware": {"device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu"},
    }
    (options.work / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()

"""RecTools' SASRec on a split made by `run_peers.py`; runs in an environment with `rectools[torch]==0.19.0` alone.

Recipes (each flag overrides one value):

- `sasrec` (default): SASRec with sampled softmax as RecTools' authors tuned and published it for the 5-core Amazon sets:
  github.com/blondered/transformer_benchmark, `configs/paper/loo/s3_vanilla.yaml`, the paper's "SASRec+SS" (eSASRec,
  RecSys'25): 256 wide, 1 block, 1 head, dropout .2, length 50, 256 uniform negatives; learning rate .001, at most 200
  epochs, patience 50 (README there, "Hyperparameters", whose table says 64 wide where the file says 256); batch 128 is
  the library's default.
- `esasrec`: the same with gated LiGR layers (feed-forward 4 × wide) and a key padding mask: `s3_beauty_ligr.yaml` there,
  and the RecTools README's advice for eSASRec.

`--negatives 0` trains with its softmax over all items. `--minutes N` starts no epoch after N minutes of
training: what a CPU can afford. `--limit-batches N` ends an epoch after N batches: for timings.

Validation follows RecTools' "advanced training guide": a leave-one-out `get_val_mask_func`, a Lightning callback that
ranks the whole catalogue, early stopping and a checkpoint on its NDCG@10. RecTools knows only items of the training
part: a target that never occurs there counts as a miss, and as such an item in a history is dropped.

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

import numpy as np
import pandas as pd
import torch
from batch_clock import BatchClock
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet
from rectools.models.nn.transformers.ligr import LiGRLayers

K = 10
MONITOR = "ndcg10"
SASREC = {
    "dim": 256,
    "blocks": 1,
    "heads": 1,
    "dropout": 0.2,
    "max_length": 50,
    "negatives": 256,
    "learning_rate": 0.001,
    "batch_size": 128,
    "epochs": 200,
    "patience": 50,
    "minutes": 0,
    "limit_batches": 0,
}
LAYERS = {
    "sasrec": {},
    "esasrec": {
        "transformer_layers_type": LiGRLayers,
        "transformer_layers_kwargs": {"ff_factors_multiplier": 4},
        "use_key_padding_mask": True,
    },
}


class ValidationNdcg(Callback):
    """Logs NDCG@10 of the validation targets among all items but the batch's own, over all users.

    RecTools leaves out users whose target it does not know; they count as misses.
    """

    def __init__(self, num_users: int) -> None:
        self.num_users = num_users
        self.total = 0.0
        self.course: list[float] = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        del trainer, outputs, batch_idx, dataloader_idx
        states = pl_module.torch_model.encode_sessions(batch, pl_module.item_embs)[:, -1]
        scores = states @ pl_module.item_embs.T
        own = scores.gather(1, batch["y"])
        scores.scatter_(1, batch["x"], -torch.inf)  # the history, and padding (item 0) with it
        scores[:, 0] = -torch.inf
        ranks = (scores > own).sum(1)
        self.total += float(torch.where(ranks < K, 1.0 / torch.log2(ranks + 2.0), 0.0).sum())

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        value, self.total = self.total / self.num_users, 0.0
        if trainer.sanity_checking:
            return
        self.course.append(value)
        self.log(MONITOR, value)
        print(f"epoch {trainer.current_epoch + 1}: validation NDCG@10 {value:.5f}", flush=True)


class Clock(BatchClock, Callback):
    """As the trainer takes it."""


def last_of_user(interactions: pd.DataFrame) -> np.ndarray:
    """The mask that RecTools asks for: True at each user's newest interaction."""
    newest_first = interactions.sort_values(Columns.Datetime, ascending=False, kind="stable")
    return (newest_first.groupby(Columns.User, sort=False).cumcount() == 0).reindex(interactions.index).to_numpy()


def make_trainer(
    epochs: int, patience: int, minutes: int, num_users: int, device: str, folder: str, limit_batches: int
) -> Trainer:
    """Lightning's trainer with the callbacks of the guide."""
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_epochs=epochs,
        limit_train_batches=limit_batches or 1.0,
        callbacks=[
            Clock(),
            ValidationNdcg(num_users),
            EarlyStopping(monitor=MONITOR, mode="max", patience=patience),
            ModelCheckpoint(dirpath=folder, filename="best", monitor=MONITOR, mode="max"),
            Timer(timedelta(minutes=minutes) if minutes else None, interval="epoch"),
        ],
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def read_dataset(path: Path) -> tuple[Dataset, int]:
    """RecTools' dataset of all histories, their order kept as made-up days; and the number of users."""
    split = np.load(path)
    lengths = np.diff(split["offsets"])
    places = np.arange(len(split["items"])) - np.repeat(split["offsets"][:-1], lengths)
    table = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(lengths)), lengths),
            Columns.Item: split["items"],
            Columns.Weight: 1,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(places, unit="D"),
        }
    )
    return Dataset.construct(table), len(lengths)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--recipe", choices=sorted(LAYERS), default="sasrec")
    for name, value in SASREC.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args()


def main() -> None:
    """Fit with early stopping, load the best epoch's weights, recommend to all users."""
    options = _arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    seed_everything(options.seed, workers=True)
    dataset, num_users = read_dataset(options.work / "split.npz")
    model = SASRecModel(
        n_factors=options.dim,
        n_blocks=options.blocks,
        n_heads=options.heads,
        dropout_rate=options.dropout,
        session_max_len=options.max_length,
        loss="sampled_softmax" if options.negatives else "softmax",
        n_negatives=options.negatives or 1,
        lr=options.learning_rate,
        batch_size=options.batch_size,
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_val_mask_func=last_of_user,
        get_trainer_func=make_trainer,
        get_trainer_func_kwargs={
            "epochs": options.epochs,
            "patience": options.patience,
            "minutes": options.minutes,
            "num_users": num_users,
            "device": options.device,
            "folder": str(options.work),
            "limit_batches": options.limit_batches,
        },
        recommend_torch_device=options.device,
        **LAYERS[options.recipe],
    )
    processor_started = time.process_time()
    model.fit(dataset)
    processor_seconds = time.process_time() - processor_started
    clock, validation, _, timer, checkpoint = _callbacks(model.fit_trainer)
    model.load_weights_from_checkpoint(checkpoint.best_model_path)
    started = time.perf_counter()
    lists = model.recommend(users=np.arange(num_users), dataset=dataset, k=K, filter_viewed=True)
    recommend_seconds = time.perf_counter() - started
    top = np.full((num_users, K), -1, np.int64)
    top[lists[Columns.User], lists[Columns.Rank] - 1] = lists[Columns.Item]
    np.savez(options.work / "top.npz", top=top)
    epochs = len(validation.course)
    training = timer.time_elapsed("train") - timer.time_elapsed("validate")
    facts = {
        "settings": {name: getattr(options, name) for name in ("recipe", "device", *SASREC)},
        "parameters": sum(p.numel() for p in model.torch_model.parameters()),
        "validation": {
            "ndcg10": max(validation.course),
            "best_epoch": int(np.argmax(validation.course)) + 1,
            "epochs": epochs,
            "course": [round(value, 5) for value in validation.course],
        },
        "seconds": {
            "epoch": round(training / epochs, 2),
            "batch": round(clock.seconds(), 4),
            "validation": round(timer.time_elapsed("validate") / epochs, 2),
            "recommend": round(recommend_seconds, 2),
            "processor": round(
                processor_seconds, 1
            ),  # of the whole fit: on a shared machine the wall clock says little
        },
        "versions": {
            name: importlib.metadata.version(name) for name in ("rectools", "torch", "pytorch-lightning", "numpy")
        }
        | {"python": platform.python_version()},
        "hardware": {"device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu"},
    }
    (options.work / "facts.json").write_text(json.dumps(facts))


def _callbacks(trainer: Trainer) -> list:
    """The trainer's own copies of the callbacks of `make_trainer`: RecTools copies the trainer before it fits."""
    kinds = (Clock, ValidationNdcg, EarlyStopping, Timer, ModelCheckpoint)
    return [next(callback for callback in trainer.callbacks if isinstance(callback, kind)) for kind in kinds]


if __name__ == "__main__":
    main()

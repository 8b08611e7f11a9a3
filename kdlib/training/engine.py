"""The DeepSpeed engine around a module, for every training job and for the tests."""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlib.config.models import TrainConfig
from kdlib.models.sequence import SequenceModel
from kdlib.training.deepspeed_config import deepspeed_config


def make_engine(module: nn.Module, train: TrainConfig, *, zero_stage: int, workers: int, bf16: bool) -> Any:
    """A DeepSpeed engine with AdamW. With several workers the process group must exist already.

    Args:
      module: on the worker's device, the same weights on every worker.
      train: its batch size, learning rate, weight decay and gradient clipping are used.
      zero_stage: 0 to 3.
      workers: the world size.
      bf16: see `deepspeed_config`.
    """
    with _no_mlflow():
        import deepspeed

    # DeepSpeed would compile its shared-memory collective now, and few hosts have the compiler
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if zero_stage == 3:
        # item tables also serve as scoring matrices, outside the module that owns them
        for model in (part for part in module.modules() if isinstance(part, SequenceModel)):
            for parameter in model.parameters(recurse=False):
                deepspeed.zero.register_external_parameter(module, parameter)
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=train.learning_rate,
        weight_decay=train.weight_decay,
        fused=True,
    )
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,  # type: ignore[arg-type]
        config=deepspeed_config(
            zero_stage=zero_stage,
            batch_size=train.batch_size,
            workers=workers,
            gradient_clipping=train.gradient_clipping,
            bf16=bf16,
        ),
        dist_init_required=False,
    )
    return engine


@contextmanager
def _no_mlflow() -> Iterator[None]:
    """Python finds no MLflow in the block, unless it is imported already.

    DeepSpeed imports it for its autotuner, which is not used here. This doubles the time that each worker takes to import.
    """
    if "mlflow" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["mlflow"] = None
    try:
        yield
    finally:
        del modules["mlflow"]


def load_state(engine: Any, folder: str, tag: str) -> dict[str, Any]:
    """Load the engine's state from a checkpoint; returns its `client_state`. All workers must call it.

    DeepSpeed's own loader runs whatever code its files hold, and a checkpoint lies where others may write. This one reads
    tensors, plain values and three classes of DeepSpeed.

    Raises:
      pickle.UnpicklingError: a file holds something else.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    def load(path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            return torch.load(path, map_location=map_location, weights_only=True)

    engine.checkpoint_engine.load = load
    _, client_state = engine.load_checkpoint(folder, tag=tag)
    return client_state


def scoring_dtype(device: torch.device, *, bf16: bool) -> torch.dtype:
    """bfloat16 if it is asked for and faster on this processor, otherwise float32.

    With AVX-512 BF16, AMD's processors multiply bfloat16 twice as fast as float32, and Intel's half as fast. Intel's need
    AMX, which a virtual machine may hide.
    """
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _by_amd())
        bf16 = bf16 and fast and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if bf16 else torch.float32


@functools.cache
def _by_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def full_weights(engine: Any, model: nn.Module) -> dict[str, torch.Tensor]:
    """A float32 copy of all of a model's weights on the CPU, under any ZeRO stage. All workers must call it."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=engine.zero_optimization_stage() == 3):
        return {  # item codes stay bytes
            name: (value.float() if value.is_floating_point() else value).detach().cpu().clone()
            for name, value in model.state_dict().items()
        }

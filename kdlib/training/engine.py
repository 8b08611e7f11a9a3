"""The DeepSpeed engine around a module, the same for every training job and for the tests."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlib.config.models import TrainConfig
from kdlib.models.sequence import SequenceModel
from kdlib.training.deepspeed_config import deepspeed_config


def make_engine(module: nn.Module, train: TrainConfig, *, zero_stage: int, workers: int, bf16: bool) -> Any:
    """A DeepSpeed engine with AdamW; the process group, if there are several workers, must stand already.

    Args:
      module: on the worker's device, the same weights on every worker.
      train: batch size, learning rate, weight decay and clipping are taken from it.
      zero_stage: 0 to 3.
      workers: the world size.
      bf16: see `deepspeed_config`.
    """
    import deepspeed

    # its shared-memory collective would be compiled here and now, with a compiler that few hosts have
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if zero_stage == 3:
        # item tables are used as scoring matrices outside the module that owns them
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


def scoring_dtype(device: torch.device, *, bf16: bool) -> torch.dtype:
    """bfloat16 where it is wished for and the processor gains by it, else float32.

    With AVX-512 BF16 alone AMD's processors multiply it at twice the rate of float32, Intel's at half: those need AMX, which a
    virtual machine may hide.
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
    """A float32 copy on the CPU of all of a model's weights, whatever the ZeRO stage; every worker must call it."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=engine.zero_optimization_stage() == 3):
        return {  # an item's codes stay bytes
            name: (value.float() if value.is_floating_point() else value).detach().cpu().clone()
            for name, value in model.state_dict().items()
        }

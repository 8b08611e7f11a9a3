"""The DeepSpeed configuration; every setting that matters is explicit."""

from typing import Any


def deepspeed_config(
    *, zero_stage: int, batch_size: int, workers: int, gradient_clipping: float, bf16: bool
) -> dict[str, Any]:
    """The engine's configuration.

    Args:
      zero_stage: what the workers partition. 0: nothing; 1: the optimizer's state; 2: gradients too; 3: weights too.
      batch_size: windows a step, over all workers.
      workers: number of processes.
      gradient_clipping: largest global gradient norm; 0 does not clip.
      bf16: compute in bfloat16 with float32 weights (torch autocast).
    """
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": batch_size // workers,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": gradient_clipping,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": 50_000_000,
            "overlap_comm": False,
            "contiguous_gradients": True,
            **({"stage3_param_persistence_threshold": 0} if zero_stage == 3 else {}),
        },
        "zero_allow_untested_optimizer": True,
    }

"""The Triton kernels without a GPU: the interpreter runs them, and the compiler accepts them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="test_triton_kernels runs them"
)
SHARED_BYTES = 227 << 10
"""Shared memory of a block on an H100."""


@pytest.mark.engine
def test_the_interpreter_runs_the_kernels() -> None:
    """Every law of `test_triton_kernels` holds in Triton's interpreter."""
    laws = Path(__file__).with_name("test_triton_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(laws)]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=laws.parents[2], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]
    assert " passed" in run.stdout


@pytest.mark.parametrize(("width", "teacher_width"), [(128, 0), (128, 320), (256, 640)])
@pytest.mark.parametrize("kernel", ["logsumexp_kernel", "hidden_kernel", "weight_kernel"])
def test_the_compiler_takes_the_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: str, width: int, teacher_width: int
) -> None:
    """The kernels compile for an H100 in bfloat16 and fit its shared memory. The interpreter cannot check that."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from kdlib.losses import triton_kernels, triton_passes

    tile = getattr(triton_passes, kernel.removesuffix("kernel").upper() + "TILE")
    sizes = {"WIDTH": width, "STRIDE": width, "TEMPERED": teacher_width > 0, "TEACHER_WIDTH": teacher_width}
    sizes |= {"BLOCK_T": tile.positions, "BLOCK_V": tile.items, "BLOCK_K": triton_passes.INNER}
    sizes["BLOCK_W"] = triton_passes.INNER if kernel == "logsumexp_kernel" else width
    types = dict.fromkeys(("hidden", "weight", "teacher_hidden", "teacher_weight"), "*bf16") | {"targets": "*i64"}
    types |= dict.fromkeys(("positions", "items", "share"), "i32") | dict.fromkeys(("scale", "pull"), "fp32")
    shared_bytes = _compiled_shared_bytes(getattr(triton_kernels, kernel), types, sizes, tile.warps)
    assert 0 < shared_bytes <= SHARED_BYTES


def _compiled_shared_bytes(kernel: Any, types: dict[str, str], sizes: dict[str, Any], warps: int) -> int:
    """Shared memory of a program that is compiled for sm_90. Pointers without a type point to float32."""
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    from kdlib.losses.triton_passes import PIPELINE_STAGES

    signature = {name: "constexpr" if name in sizes else types.get(name, "*fp32") for name in kernel.arg_names}
    numbers = {name: place for place, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(numbers[name],): value for name, value in sizes.items() if name in numbers},
        attrs={(numbers[n],): [["tt.divisibility", 16]] for n, kind in signature.items() if kind.startswith("*")},
    )
    options = {"num_warps": warps, "num_stages": PIPELINE_STAGES}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared

"""Items as a few codewords: residual and product quantisation of item vectors, and item vectors made from code tables.

An item table [V, D] becomes V × M bytes and M tables of S codewords. *Residual* codewords have the full width and are added
up: each one quantises the remainder of the ones before. *Product* codewords stand side by side: each one quantises a part of
the vector. The width of a table says which of the two it is: d = D, or M · d = D. Codeword 0 of each table is zero. So the
zero vector, which is the mean of centred vectors, has an exact code.

Shapes: V items, N rows of any set of vectors, D width of an item vector, M codes an item, S codewords a table, d width
of a codeword.

Sources: Jégou, Douze & Schmid 2011, "Product quantization for nearest neighbor search"; Chen, Guan & Wang 2010,
"Approximate nearest neighbor search by residual vector quantization"; as a model's item table: Shu & Nakayama 2018,
"Compressing word embeddings via deep compositional code learning", section 3.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MAX_SIZE = 256
"""Most codewords of a table, because a code is one byte."""

LLOYD_ITERATIONS = 25
"""Most iterations of k-means."""
TRAINING_ROWS_PER_CODEWORD = 256
"""Most rows that k-means learns a codeword from, on average. More rows hardly change the codewords."""
CHUNK_DISTANCES = 1 << 23
"""Rows × codewords that are compared at a time: 32 MiB of float32."""


def residual_codes(vectors_ND: Tensor, *, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Learn codebooks whose codewords add up to the vectors: k-means on the remainder of the codebooks before.

    Args:
      vectors_ND: float. The codebooks are learnt from these rows, or from a random part if they are many.
      count: M.
      size: S, at most 256 and at most the number of rows.
      seed: of the starting points and of the random part.

    Returns:
      Codes uint8 [N, M] and codebooks float32 [M, S, D].

    Raises:
      ValueError: `size` is out of range, or a vector is not finite.
    """
    _check(vectors_ND, size)
    generator = torch.Generator().manual_seed(seed)
    rest_ND = _some_rows(vectors_ND.float(), size, generator)
    levels = []
    for _ in range(count):
        codewords_SD = _k_means(rest_ND, size, generator)
        rest_ND = rest_ND - codewords_SD[_nearest(rest_ND, codewords_SD)[0].long()]
        levels.append(codewords_SD)
    codebooks_MSD = torch.stack(levels)
    return encode(vectors_ND, codebooks_MSD), codebooks_MSD


def product_codes(vectors_ND: Tensor, *, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Learn codebooks whose codewords stand side by side: k-means on each of `count` equal parts of the vectors.

    Each part gets one byte, so the vectors should be rotated first such that the parts have equal variance.

    Args:
      vectors_ND: float. D must be a multiple of `count`.
      count: M.
      size: S, at most 256 and at most the number of rows.
      seed: of the starting points, and of the random part that many rows are reduced to.

    Returns:
      Codes uint8 [N, M] and codebooks float32 [M, S, D / M].

    Raises:
      ValueError: `size` is out of range, D is not a multiple of `count`, or a vector is not finite.
    """
    _check(vectors_ND, size)
    if vectors_ND.shape[1] % count:
        raise ValueError(
            f"product codes need vectors whose width is a multiple of count {count}, found {vectors_ND.shape[1]}"
        )
    generator = torch.Generator().manual_seed(seed)
    some_ND = _some_rows(vectors_ND.float(), size, generator)
    codebooks_MSd = torch.stack([_k_means(part_Nd, size, generator) for part_Nd in some_ND.chunk(count, dim=1)])
    return encode(vectors_ND, codebooks_MSd), codebooks_MSd


def encode(vectors_ND: Tensor, codebooks_MSd: Tensor) -> Tensor:
    """The codes of any vectors, uint8 [N, M].

    Residual codes are chosen one codebook after the other, each the nearest to the remainder.
    """
    count, _, part = codebooks_MSd.shape
    width = vectors_ND.shape[1]
    _check_width(codebooks_MSd, width)
    codes_NM = torch.empty(len(vectors_ND), count, dtype=torch.uint8)
    rest_ND = vectors_ND.float()
    for level, codewords_Sd in enumerate(codebooks_MSd):
        if part == width:
            codes_NM[:, level] = _nearest(rest_ND, codewords_Sd)[0]
            rest_ND = rest_ND - codewords_Sd[codes_NM[:, level].long()]
        else:
            codes_NM[:, level] = _nearest(rest_ND[:, level * part : (level + 1) * part], codewords_Sd)[0]
    return codes_NM


def compose(tables_MSd: Tensor, codes_NM: Tensor, *, width: int) -> Tensor:
    """The vectors that codes stand for: float [N, D]. Gradients reach the tables.

    Args:
      tables_MSd: float, codebooks or a model's code tables.
      codes_NM: uint8.
      width: D. Codewords of this width are added up, narrower ones stand side by side.

    Raises:
      ValueError: the codewords do not make vectors of this width.
    """
    _check_width(tables_MSd, width)
    return _Compose.apply(tables_MSd, codes_NM, tables_MSd.shape[2] == width)  # type: ignore[no-any-return]


class _Compose(torch.autograd.Function):
    """A look-up whose gradient takes one `index_add_` a table. PyTorch's own sorts all indices and takes four times as long."""

    @staticmethod
    def forward(ctx: Any, tables_MSd: Tensor, codes_NM: Tensor, added: bool) -> Tensor:
        count, size, part = tables_MSd.shape
        ctx.save_for_backward(codes_NM)
        ctx.shape, ctx.added = tables_MSd.shape, added
        places_NM = codes_NM.long() + torch.arange(count, device=codes_NM.device) * size
        flat = tables_MSd.reshape(count * size, part)
        return F.embedding_bag(places_NM, flat, mode="sum") if added else F.embedding(places_NM, flat).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        (codes_NM,) = ctx.saved_tensors
        count, _, part = ctx.shape
        grad_MSd = grad_ND.new_zeros(ctx.shape)
        for level in range(count):
            grad_Nd = grad_ND if ctx.added else grad_ND[:, level * part : (level + 1) * part]
            grad_MSd[level].index_add_(
                0, codes_NM[:, level].long(), grad_Nd.contiguous()
            )  # ten times slower if strided
        return grad_MSd, None, None


def explained_variance(vectors_ND: Tensor, rebuilt_ND: Tensor) -> float:
    """1 − squared error / squared distance from the mean, over all rows. It is 1 if the vectors are equal."""
    centred_ND = vectors_ND - vectors_ND.mean(0)
    return 1.0 - float((vectors_ND - rebuilt_ND).square().sum() / centred_ND.square().sum().clamp_min(1e-30))


def _check(vectors_ND: Tensor, size: int) -> None:
    if not 2 <= size <= MAX_SIZE:
        raise ValueError(f"size must be from 2 to {MAX_SIZE}, because a code is one byte; found {size}")
    if len(vectors_ND) < size:
        raise ValueError(
            f"{size} codewords a table need at least as many vectors, found {len(vectors_ND)}. Lower the size"
        )
    if not torch.isfinite(vectors_ND).all():
        raise ValueError("the vectors to quantise are not finite. Train the model that they come from again")


def _check_width(codebooks_MSd: Tensor, width: int) -> None:
    count, _, part = codebooks_MSd.shape
    if width not in (part, count * part):
        raise ValueError(
            f"{count} codebooks of width {part} make vectors of width {part} or {count * part}, found {width}"
        )


def _some_rows(vectors_ND: Tensor, size: int, generator: torch.Generator) -> Tensor:
    most = TRAINING_ROWS_PER_CODEWORD * size
    if len(vectors_ND) <= most:
        return vectors_ND
    return vectors_ND[torch.randperm(len(vectors_ND), generator=generator)[:most]]


def _k_means(vectors_ND: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Zero, and `size − 1` codewords by Lloyd's k-means from random rows: float [S, D].

    A codeword without rows moves to the row that is farthest from its codeword, so none stays without rows while rows differ.
    The zero codeword is added last and leaves every other codeword some rows. k-means++ as a start is not better for teachers'
    item vectors.
    """
    codewords_SD = vectors_ND[torch.randperm(len(vectors_ND), generator=generator)[: size - 1]].clone()
    codes_N, distances_N = _nearest(vectors_ND, codewords_SD)
    for _ in range(LLOYD_ITERATIONS):
        codewords_SD = _means(vectors_ND, codes_N, codewords_SD)
        before_N = codes_N
        codes_N, distances_N = _nearest(vectors_ND, codewords_SD)
        empty = (torch.bincount(codes_N.long(), minlength=size - 1) == 0).nonzero()[:, 0]
        if len(empty):
            codewords_SD[empty] = vectors_ND[distances_N.topk(len(empty)).indices]
            codes_N, distances_N = _nearest(vectors_ND, codewords_SD)
        elif torch.equal(codes_N, before_N):
            break
    return F.pad(codewords_SD, (0, 0, 1, 0))


def _nearest(vectors_ND: Tensor, codewords_SD: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's nearest codeword, uint8 [N], and its squared distance, float [N]. Ties go to the smaller code."""
    codes_N = torch.empty(len(vectors_ND), dtype=torch.uint8)
    distances_N = torch.empty(len(vectors_ND))
    squares_S = codewords_SD.square().sum(1)
    rows = max(1, CHUNK_DISTANCES // len(codewords_SD))
    for start in range(0, len(vectors_ND), rows):
        part_ND = vectors_ND[start : start + rows]
        nearest_N, which_N = torch.addmm(squares_S, part_ND, codewords_SD.T, alpha=-2.0).min(1)
        codes_N[start : start + rows] = which_N.to(torch.uint8)
        distances_N[start : start + rows] = nearest_N + part_ND.square().sum(1)
    return codes_N, distances_N


def _means(vectors_ND: Tensor, codes_N: Tensor, codewords_SD: Tensor) -> Tensor:
    """Each codeword moved to the mean of its rows. A codeword without rows stays."""
    sums_SD = torch.zeros_like(codewords_SD).index_add_(0, codes_N.long(), vectors_ND)
    rows_S1 = torch.bincount(codes_N.long(), minlength=len(codewords_SD))[:, None]
    return torch.where(rows_S1 > 0, sums_SD / rows_S1.clamp_min(1), codewords_SD)

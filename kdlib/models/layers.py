"""Causal Transformers, with blocks of two kinds: pre-norm, and with a low-pass filter beside the attention.

Shapes: B sequences, L length, H width.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STANDARD_DEVIATION = 0.02
FREQUENCIES, FILTER_SHARE = 3, 0.7
"""Of `BsarecBlock`: the number of low frequencies, the constant one included, and the filter's weight against the attention."""


class Transformer(nn.Module):
    """Causal blocks over learnt positions (Kang & McAuley 2018): [B, L, H] to [B, L, H].

    Positions are counted from the end of each sequence. The last position, which predicts, is then the same for histories of
    every length, and the newest interaction of every user trains it. Counted from the start, few histories would train the
    last position of a long history.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        max_length: int,
        *,
        block: Literal["prenorm", "bsarec"] = "prenorm",
    ) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_length, width)
        nn.init.normal_(self.positions.weight, std=INITIAL_STANDARD_DEVIATION)
        window = {"max_length": max_length} if block == "bsarec" else {}
        self.blocks = nn.ModuleList(BLOCKS[block](width, heads, dropout, **window) for _ in range(layers))

    def forward(self, x_BLH: Tensor, lengths_B: Tensor) -> Tensor:
        from_end_BL = lengths_B[:, None] - 1 - torch.arange(x_BLH.shape[1], device=x_BLH.device)
        x_BLH = x_BLH + self.positions(from_end_BL.clamp_min(0))
        for block in self.blocks:
            x_BLH = block(x_BLH)
        return x_BLH


def causal_attention(qkv_BL3H: Tensor, heads: int, *, dropout: float) -> Tensor:
    """Attention of each position to itself and the positions before it: float [B, L, H].

    Args:
      qkv_BL3H: float [B, L, 3 · H]: queries, keys and values side by side.
      heads: number of heads; H is a multiple of it.
      dropout: of the attention weights.
    """
    batch, length, width = qkv_BL3H.shape[0], qkv_BL3H.shape[1], qkv_BL3H.shape[2] // 3
    query, key, value = qkv_BL3H.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
    return mixed.transpose(1, 2).reshape(batch, length, width)


class PrenormBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))` with a GELU. The norms are placed as in GPT-2."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLH: Tensor) -> Tensor:
        qkv = self.query_key_value(self.attention_norm(x_BLH))
        mixed = causal_attention(qkv, self.heads, dropout=self.dropout.p if self.training else 0.0)
        x_BLH = x_BLH + self.dropout(self.attention_output(mixed))
        fed = self.feed_out(self.dropout(F.gelu(self.feed_in(self.feed_norm(x_BLH)))))
        return x_BLH + self.dropout(fed)


class LowPass(nn.Module):
    """The smooth part of each channel, plus a learnt share of the rest: [B, L, H] to [B, L, H].

    The smooth part is the lowest frequencies of a window of `max_length` positions. At the last position of the window it is a
    weighted sum of the positions up to there. So every position is treated as the last one of its own window.
    """

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.root_share_H = nn.Parameter(torch.randn(width))

    def forward(self, x_BLH: Tensor) -> Tensor:
        place_L = torch.arange(x_BLH.shape[1], device=x_BLH.device)
        phase_LL = (place_L[:, None] - place_L) * (2 * math.pi / self.max_length)
        filter_LL = torch.ones_like(phase_LL)
        for frequency in range(1, min(FREQUENCIES, self.max_length // 2 + 1)):
            share = 1 if 2 * frequency == self.max_length else 2  # the highest frequency has no conjugate
            filter_LL += share * torch.cos(phase_LL * frequency)
        smooth_BLH = (filter_LL / self.max_length).tril().to(x_BLH.dtype) @ x_BLH
        return smooth_BLH + self.root_share_H.square() * (x_BLH - smooth_BLH)


class BsarecBlock(nn.Module):
    """A low-pass filter and attention side by side, mixed 7 : 3, then a feed-forward. The norms follow the residuals.

    BSARec: Shin et al. 2024, "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention", AAAI,
    section 4, with its settings for Amazon Beauty. In the paper the filter sees the whole window, so only the last position
    of a window has a loss. Here the filter is causal, and every position has a loss.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, max_length: int) -> None:
        super().__init__()
        self.heads = heads
        self.filter = LowPass(width, max_length)
        self.filter_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLH: Tensor) -> Tensor:
        mixed = causal_attention(
            self.query_key_value(x_BLH), self.heads, dropout=self.dropout.p if self.training else 0.0
        )
        attended = self.attention_norm(x_BLH + self.dropout(self.attention_output(mixed)))
        filtered = self.filter_norm(x_BLH + self.dropout(self.filter(x_BLH)))
        x_BLH = FILTER_SHARE * filtered + (1 - FILTER_SHARE) * attended
        return self.feed_norm(x_BLH + self.dropout(self.feed_out(F.gelu(self.feed_in(x_BLH)))))


BLOCKS = {"prenorm": PrenormBlock, "bsarec": BsarecBlock}

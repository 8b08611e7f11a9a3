"""Causal Transformer layers of two kinds: pre-norm, and with learnt gates on the residuals.

Shapes: B sequences, L length, H width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STANDARD_DEVIATION = 0.02


class Transformer(nn.Module):
    """Causal blocks over learnt positions (Kang & McAuley 2018), counted from each sequence's end: [B, L, H] to [B, L, H].

    So the position to predict from is the same one for every history, long or short, and it is learnt from the newest
    interaction of every user. Counted from the start, a history one longer than in training ends at a position that only
    longer histories have taught.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        max_length: int,
        *,
        block: Literal["prenorm", "ligr"] = "prenorm",
    ) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_length, width)
        nn.init.normal_(self.positions.weight, std=INITIAL_STANDARD_DEVIATION)
        self.blocks = nn.ModuleList(BLOCKS[block](width, heads, dropout) for _ in range(layers))

    def forward(self, x_BLH: Tensor, lengths_B: Tensor) -> Tensor:
        from_end_BL = lengths_B[:, None] - 1 - torch.arange(x_BLH.shape[1], device=x_BLH.device)
        x_BLH = x_BLH + self.positions(from_end_BL.clamp_min(0))
        for block in self.blocks:
            x_BLH = block(x_BLH)
        return x_BLH


def causal_attention(qkv_BL3H: Tensor, heads: int, *, dropout: float) -> Tensor:
    """Each position's values mixed with those before it: float [B, L, H].

    Args:
      qkv_BL3H: float [B, L, 3 · H]: queries, keys and values side by side.
      heads: H is a multiple of it.
      dropout: on the attention weights.
    """
    batch, length, width = qkv_BL3H.shape[0], qkv_BL3H.shape[1], qkv_BL3H.shape[2] // 3
    query, key, value = qkv_BL3H.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
    return mixed.transpose(1, 2).reshape(batch, length, width)


class PrenormBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + feed(norm(x))` with a GELU (the norms placed as in GPT-2)."""

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


class LigrBlock(nn.Module):
    """`x + σ(W x) ⊙ f(norm(x))` for f the attention, then a SwiGLU feed-forward: 1.5 times the weights of `PrenormBlock`.

    The gate reads x before the norm. LiGR: Borisyuk et al. 2025, "From Features to Transformers"; in this form equation 1
    of eSASRec (Tikhonovich et al., RecSys 2025). SwiGLU: Shazeer 2020, "GLU Variants Improve Transformer".
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width)
        self.attention_gate = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 2 * 4 * width, bias=False)  # what passes, and what lets it pass
        self.feed_out = nn.Linear(4 * width, width, bias=False)
        self.feed_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLH: Tensor) -> Tensor:
        qkv = self.query_key_value(self.attention_norm(x_BLH))
        mixed = causal_attention(qkv, self.heads, dropout=self.dropout.p if self.training else 0.0)
        x_BLH = x_BLH + torch.sigmoid(self.attention_gate(x_BLH)) * self.dropout(self.attention_output(mixed))
        passing, opening = self.feed_in(self.feed_norm(x_BLH)).chunk(2, -1)
        fed = self.feed_out(self.dropout(F.silu(opening) * passing))
        return x_BLH + torch.sigmoid(self.feed_gate(x_BLH)) * self.dropout(fed)


BLOCKS = {"prenorm": PrenormBlock, "ligr": LigrBlock}

"""Next-item models over item sequences: LSTM, GRU and causal Transformer; students and teachers at other sizes.

Shapes: B sequences, L length, D item-embedding width, H width of the layers, W scoring width, V items, E text width.

Sequences are right-padded: every model is causal, so what stands after a real position never reaches it, and no
padding mask is needed. A model maps items to *hidden states*; `head` gives the matrix that turns them into scores, so
that losses and top-k can work block by block and no [B, L, V] tensor ever exists.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STANDARD_DEVIATION = 0.02


class SequenceModel(nn.Module):
    """Predicts the next item of a sequence.

    Args:
      num_items: V, the size of the item vocabulary.
      kind: the layers.
      dim: D, width of the item embeddings.
      hidden: H, recurrent units or Transformer width; `dim` when None.
      layers: how many layers.
      heads: attention heads (Transformer).
      dropout: on embeddings and inside the layers.
      tied: score with the item embeddings (W = D, after a projection where H differs from D, and a layer norm);
        else with an output matrix and bias of their own (W = H).
      session_flag: whether the model is told, at each position, that the item to predict opens a session.
      max_length: longest sequence (positions of the Transformer).
      text_vectors_VE: frozen float text vectors; projected and added to the item embeddings. Folded away on export.
    """

    def __init__(
        self,
        *,
        num_items: int,
        kind: Literal["lstm", "gru", "transformer"],
        dim: int,
        hidden: int | None = None,
        layers: int = 1,
        heads: int = 1,
        dropout: float = 0.0,
        tied: bool = True,
        session_flag: bool = False,
        max_length: int = 50,
        text_vectors_VE: Tensor | None = None,
    ) -> None:
        super().__init__()
        width = hidden or dim
        self.num_items = num_items
        self.max_length = max_length
        self.tied = tied
        self.options = {
            "num_items": num_items, "kind": kind, "dim": dim, "hidden": hidden, "layers": layers, "heads": heads,
            "dropout": dropout, "tied": tied, "session_flag": session_flag, "max_length": max_length,
        }  # fmt: skip
        self.item_embedding = nn.Parameter(torch.randn(num_items, dim) * INITIAL_STANDARD_DEVIATION)
        self.text_projection: nn.Linear | None = None
        if text_vectors_VE is not None:
            self.register_buffer("text_vectors_VE", text_vectors_VE.float(), persistent=False)
            self.text_projection = nn.Linear(text_vectors_VE.shape[1], dim, bias=False)
            nn.init.normal_(self.text_projection.weight, std=INITIAL_STANDARD_DEVIATION)
        self.session_embedding = nn.Embedding(2, dim) if session_flag else None
        if self.session_embedding is not None:
            nn.init.normal_(self.session_embedding.weight, std=INITIAL_STANDARD_DEVIATION)
        self.dropout = nn.Dropout(dropout)
        if kind == "transformer":
            self.input_projection = nn.Linear(dim, width) if width != dim else None
            self.layers: nn.Module = _Transformer(width, layers, heads, dropout, max_length)
        else:
            self.input_projection = None
            recurrent = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
            self.layers = recurrent(dim, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.output_projection = nn.Linear(width, dim) if tied and width != dim else None
        self.output_norm = nn.LayerNorm(dim) if tied else None
        self.output_embedding = (
            None if tied else nn.Parameter(torch.randn(num_items, width) * INITIAL_STANDARD_DEVIATION)
        )
        self.output_bias = None if tied else nn.Parameter(torch.zeros(num_items))

    def item_vectors(self) -> Tensor:
        """The item table float [V, D], text included."""
        if self.text_projection is None:
            return self.item_embedding
        return self.item_embedding + self.text_projection(self.text_vectors_VE)

    def head(self, item_vectors_VD: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Scoring matrix float [V, W] and bias float [V] or None: `scores = hidden @ matrix.T + bias`."""
        if self.output_embedding is not None:
            return self.output_embedding, self.output_bias
        return (self.item_vectors() if item_vectors_VD is None else item_vectors_VD), None

    def forward(self, items_BL: Tensor, new_session_BL: Tensor, *, item_vectors_VD: Tensor | None = None) -> Tensor:
        """Hidden states float [B, L, W]; the one at position t scores the item at t + 1.

        Args:
          items_BL: int64 item indices, right-padded with any valid index.
          new_session_BL: bool; the item after position t opens a session. Unused without `session_flag`.
          item_vectors_VD: `item_vectors()` where the caller has it already.
        """
        vectors_VD = self.item_vectors() if item_vectors_VD is None else item_vectors_VD
        x_BLD = F.embedding(items_BL, vectors_VD)
        if self.session_embedding is not None:
            x_BLD = x_BLD + self.session_embedding(new_session_BL.long())
        x_BLD = self.dropout(x_BLD)
        if isinstance(self.layers, _Transformer):
            h_BLH = self.layers(x_BLD if self.input_projection is None else self.input_projection(x_BLD))
        else:
            h_BLH = self.layers(x_BLD)[0]
            h_BLH = self.dropout(h_BLH)
        if self.output_projection is not None:
            h_BLH = self.output_projection(h_BLH)
        return h_BLH if self.output_norm is None else self.output_norm(h_BLH)


class _Transformer(nn.Module):
    """Pre-norm causal blocks with learnt positions (Kang & McAuley 2018, with the norm placed as in GPT-2)."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_length, width)
        nn.init.normal_(self.positions.weight, std=INITIAL_STANDARD_DEVIATION)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))

    def forward(self, x_BLH: Tensor) -> Tensor:
        length = x_BLH.shape[1]
        x_BLH = x_BLH + self.positions(torch.arange(length, device=x_BLH.device))
        for block in self.blocks:
            x_BLH = block(x_BLH)
        return x_BLH


class _Block(nn.Module):
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
        batch, length, width = x_BLH.shape
        qkv = self.query_key_value(self.attention_norm(x_BLH))
        query, key, value = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout.p if self.training else 0.0
        )
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        x_BLH = x_BLH + self.dropout(self.attention_output(mixed))
        fed = self.feed_out(self.dropout(F.gelu(self.feed_in(self.feed_norm(x_BLH)))))
        return x_BLH + self.dropout(fed)

"""Next-item models over item sequences: LSTM, GRU and causal Transformer. Students and teachers differ in size only.

Shapes: B sequences, L length, C columns of the context and of the user's values, V items. D item-embedding width, H width of
the layers, W scoring width, E text width, F values of features. M codes an item, S codewords a table, d width of a codeword, N
items to look up.

Sequences are right-padded. Every model is causal, so padding never reaches a real position and needs no mask. A model maps
items to *hidden states*, and `head` gives the matrix that turns them into scores. Losses and top-k then work block by
block, and no [B, L, V] tensor ever exists.

The layers read the item vector times √D (Vaswani et al., "Attention Is All You Need", 2017, section 3.4; SASRec by Kang and
McAuley does the same). Vectors that also score items start small. Without the factor they would have no effect beside the
positions in the first steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.models.codes import compose
from kdlib.models.item_values import ItemValues
from kdlib.models.layers import INITIAL_STANDARD_DEVIATION, Transformer
from kdlib.models.new_items import NearestItems, nearest_items, with_new_items
from kdlib.store.tables import CONTEXT, USER_CODES

COLUMNS = tuple(CONTEXT)
NEW_SESSION = COLUMNS.index("new_session")


class SequenceModel(nn.Module):
    """Predicts the next item of a sequence.

    Args:
      num_items: V, the size of the item vocabulary.
      kind: the layers.
      dim: D, width of the item embeddings.
      hidden: H, recurrent units or Transformer width. None: `dim`.
      layers: number of layers.
      heads: attention heads of a Transformer.
      dropout: of embeddings and inside the layers.
      tied: True: score with the item embeddings (W = D), after a layer norm and, where H is not D, a projection. False: score
        with a separate output matrix and bias (W = H).
      session_flag: whether the model reads, at each position, if the item to predict opens a session.
      inputs: other columns of the context that the model reads with each item: `event_type`, `time_gap`.
      user_columns: features of the users that the model reads with each item, each with the number of its column among the
        user's values. A context that lacks the column has the code 0.
      block: the blocks of a Transformer, see `kdlib.models.layers`.
      max_length: longest sequence, which is the number of positions of a Transformer.
      text_vectors_VE: float vectors of the titles, and of features that are vectors, side by side; not trained. The model adds
        them, projected, to the item embeddings. The export folds them into the item table.
      item_values: values of the items' features. The model adds an embedding of each value to the item embeddings, and the
        export folds them in as well. Text vectors and values together are the *content* of an item.
      trained_V: with content: bool, the items that occur in training. The others have no own embedding: it would only learn
        that the item never comes. In training such an item is what the model learns about its content. In evaluation mode it
        is the mean of the items with the nearest content, see `kdlib.models.new_items`.
      item_dropout: with content: share of the items whose own embedding a training step leaves out, chosen anew in each step.
        The content then learns to stand for an item alone ("DropoutNet", Volkovs et al. 2017, section 4.2).
      codes: `{"kind": "residual" | "product", "count": M, "size": S}`. Item vectors are then made from code tables [M, S, d]
        and each item's codes (`kdlib.models.codes`). The width d is D, or D / M for product codes.
      codes_VM: uint8, the codes of each item. None: zeros, which loaded weights replace.
      code_tables_MSd: float, start of the code tables. None: random.

    Raises:
      ValueError: an unknown input, a block of a Transformer in a recurrent model, codes together with content or with
        `tied=False`, or codes or code tables of a wrong shape.
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
        inputs: Sequence[str] = (),
        user_columns: Mapping[str, int] | None = None,
        block: Literal["prenorm", "bsarec"] = "prenorm",
        max_length: int = 50,
        text_vectors_VE: Tensor | None = None,
        item_values: ItemValues | None = None,
        trained_V: Tensor | None = None,
        item_dropout: float = 0.0,
        codes: dict[str, Any] | None = None,
        codes_VM: Tensor | None = None,
        code_tables_MSd: Tensor | None = None,
    ) -> None:
        super().__init__()
        if unknown := set(inputs) - (set(COLUMNS) - {"new_session"}):
            raise ValueError(f"inputs must be among event_type and time_gap, found {sorted(unknown)}")
        if block != "prenorm" and kind != "transformer":
            raise ValueError(f"block {block} needs kind transformer, found {kind}")
        self.options = {
            "num_items": num_items,
            "kind": kind,
            "dim": dim,
            "hidden": hidden,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "tied": tied,
            "session_flag": session_flag,
            "inputs": list(inputs),
            "user_columns": dict(user_columns or {}),
            "block": block,
            "max_length": max_length,
            "item_dropout": item_dropout,
            "codes": codes,
        }
        self.num_items, self.dim, self.max_length = num_items, dim, max_length
        self.tied, self.item_dropout = tied, item_dropout
        self.code_tables: nn.Parameter | None = None
        if codes is None:
            self.item_embedding = _normal(num_items, dim)
        elif not tied or text_vectors_VE is not None or item_values is not None:
            raise ValueError(
                "codes stand for the whole tied item table: they exclude tied=False, text vectors and values"
            )
        else:
            self._set_codes(codes, codes_VM, code_tables_MSd)
        self.text_projection: nn.Linear | None = None
        self.value_embedding: nn.Parameter | None = None
        self.reads_content = text_vectors_VE is not None or item_values is not None
        if self.reads_content:
            self._set_content(text_vectors_VE, item_values, trained_V)
        self.session_embedding = nn.Embedding(2, dim) if session_flag else None
        if self.session_embedding is not None:
            nn.init.normal_(self.session_embedding.weight, std=INITIAL_STANDARD_DEVIATION)
        self.dropout = nn.Dropout(dropout)
        self._set_layers(kind, hidden or dim, layers, heads, dropout, block)
        # last, so that the other weights of a seed are those of a model without inputs
        self._set_context(inputs)

    def _set_context(self, inputs: Sequence[str]) -> None:
        """The embeddings of the context. All of a kind are made before one is filled."""
        dim = self.dim
        self.context_embeddings = nn.ModuleDict({name: nn.Embedding(CONTEXT[name], dim) for name in inputs})
        for parameter in self.context_embeddings.parameters():
            nn.init.normal_(parameter, std=INITIAL_STANDARD_DEVIATION)
        # a list, because a shop's column may have a name that PyTorch's dictionary of modules does not take
        self.user_places = [len(COLUMNS) + column for column in self.options["user_columns"].values()]
        self.user_embeddings = nn.ModuleList(nn.Embedding(USER_CODES, dim) for _ in self.user_places)
        for parameter in self.user_embeddings.parameters():
            nn.init.normal_(parameter, std=INITIAL_STANDARD_DEVIATION)

    def _set_codes(self, codes: dict[str, Any], codes_VM: Tensor | None, tables_MSd: Tensor | None) -> None:
        count, size = codes["count"], codes["size"]
        added = codes["kind"] == "residual"
        shape = (count, size, self.dim if added else self.dim // count)
        spread = INITIAL_STANDARD_DEVIATION / (count**0.5 if added else 1.0)
        held_VM = torch.zeros(self.num_items, count, dtype=torch.uint8) if codes_VM is None else codes_VM
        start_MSd = torch.randn(shape) * spread if tables_MSd is None else tables_MSd.float()
        if held_VM.shape != (self.num_items, count) or held_VM.dtype != torch.uint8 or start_MSd.shape != shape:
            raise ValueError(
                f"{codes} for {self.num_items} items of width {self.dim} need uint8 codes {(self.num_items, count)} and"
                f" tables {shape}, found {held_VM.dtype} {tuple(held_VM.shape)} and {tuple(start_MSd.shape)}"
            )
        if codes_VM is not None and int(codes_VM.max()) >= size:
            raise ValueError(f"each code must be below size {size}, found {int(codes_VM.max())}")
        self.code_tables = nn.Parameter(start_MSd.clone())
        self.register_buffer("codes_VM", held_VM)

    def _set_content(self, text_VE: Tensor | None, values: ItemValues | None, trained_V: Tensor | None) -> None:
        buffers: dict[str, Tensor] = {}
        if text_VE is not None:
            buffers["text_vectors_VE"] = text_VE.float()
            self.text_projection = nn.Linear(text_VE.shape[1], self.dim, bias=False)
            nn.init.normal_(self.text_projection.weight, std=INITIAL_STANDARD_DEVIATION)
        if values is not None:
            buffers |= values._asdict()
            self.value_embedding = _normal(len(values.items_F), self.dim)
        buffers["trained_V"] = torch.ones(self.num_items, dtype=torch.bool) if trained_V is None else trained_V
        buffers |= nearest_items(buffers["trained_V"], text_VE, values)._asdict()
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def _set_layers(
        self,
        kind: Literal["lstm", "gru", "transformer"],
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        block: Literal["prenorm", "bsarec"],
    ) -> None:
        """The layers, and what turns their output into a hidden state that scores."""
        self.input_projection: nn.Linear | None = None
        if kind == "transformer":
            self.input_projection = nn.Linear(self.dim, width) if width != self.dim else None
            self.layers: nn.Module = Transformer(width, layers, heads, dropout, self.max_length, block=block)
        else:
            recurrent = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
            self.layers = recurrent(self.dim, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.output_projection = nn.Linear(width, self.dim) if self.tied and width != self.dim else None
        self.output_norm = nn.LayerNorm(self.dim) if self.tied else None
        self.output_embedding = None if self.tied else _normal(self.num_items, width)
        self.output_bias = None if self.tied else nn.Parameter(torch.zeros(self.num_items))

    def item_vectors(self) -> Tensor:
        """The item vectors float [V, D], what the model learnt about the items' content included.

        In training mode, `item_dropout` leaves out the own embeddings of some items. In evaluation mode, an item without
        training interactions is the mean of the items with the nearest content.
        """
        if self.code_tables is not None:
            return compose(self.code_tables, self.get_buffer("codes_VM"), width=self.dim)
        if not self.reads_content:
            return self.item_embedding
        own_V = self.get_buffer("trained_V")
        if self.training and self.item_dropout:
            own_V = own_V & (torch.rand(len(own_V), device=own_V.device) >= self.item_dropout)
        vectors_VD = self.item_embedding * own_V[:, None]
        if self.text_projection is not None:
            text_VE = self.get_buffer("text_vectors_VE")
            text_VD = F.linear(text_VE, self.text_projection.weight.to(text_VE.dtype))
            vectors_VD = vectors_VD + text_VD.to(vectors_VD.dtype)
        if self.value_embedding is not None:
            vectors_VD = vectors_VD + self.item_values().sums(self.value_embedding)
        return vectors_VD if self.training else with_new_items(vectors_VD, self.nearest_items())

    def item_values(self) -> ItemValues:
        """The values of the items' features, for a model that reads them."""
        return ItemValues(*map(self.get_buffer, ItemValues._fields))

    def nearest_items(self) -> NearestItems:
        """The neighbours of items without training interactions, for a model with content."""
        return NearestItems(*map(self.get_buffer, NearestItems._fields))

    def head(self, item_vectors_VD: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Scoring matrix float [V, W] and bias float [V] or None: `scores = hidden @ matrix.T + bias`."""
        if self.output_embedding is not None:
            return self.output_embedding, self.output_bias
        return (self.item_vectors() if item_vectors_VD is None else item_vectors_VD), None

    def forward(
        self,
        items_BL: Tensor,
        context_BLC: Tensor,
        *,
        lengths_B: Tensor | None = None,
        item_vectors_VD: Tensor | None = None,
    ) -> Tensor:
        """Hidden states float [B, L, W]. The one at position t scores the item at t + 1.

        Args:
          items_BL: int64 item indices, right-padded with any valid index.
          context_BLC: int8, the columns of `kdlib.store.tables.CONTEXT`, read with `session_flag` and `inputs`; then the
            user's values, read with `user_columns`.
          lengths_B: int64, number of real items of each row. None: all are real.
          item_vectors_VD: the result of `item_vectors()`, if the caller has it already.
        """
        if self.code_tables is not None and item_vectors_VD is None:  # compose only the items that are read
            codes_NM = self.get_buffer("codes_VM")[items_BL.flatten()]
            x_BLD = compose(self.code_tables, codes_NM, width=self.dim).view(*items_BL.shape, self.dim)
        else:
            x_BLD = F.embedding(items_BL, self.item_vectors() if item_vectors_VD is None else item_vectors_VD)
        if self.session_embedding is not None:
            x_BLD = x_BLD + self.session_embedding(context_BLC[..., NEW_SESSION].long())
        for name, embedding in self.context_embeddings.items():
            x_BLD = x_BLD + embedding(context_BLC[..., COLUMNS.index(name)].long())
        for place, embedding in zip(self.user_places, self.user_embeddings, strict=True):
            known = place < context_BLC.shape[-1]
            x_BLD = x_BLD + embedding(context_BLC[..., place].long() if known else torch.zeros_like(items_BL))
        x_BLD = self.dropout(x_BLD * self.dim**0.5)
        if isinstance(self.layers, Transformer):
            if lengths_B is None:
                lengths_B = torch.full(items_BL.shape[:1], items_BL.shape[1], device=items_BL.device)
            h_BLH = self.layers(x_BLD if self.input_projection is None else self.input_projection(x_BLD), lengths_B)
        else:
            h_BLH = self.layers(x_BLD)[0]
            h_BLH = self.dropout(h_BLH)
        if self.output_projection is not None:
            h_BLH = self.output_projection(h_BLH)
        return h_BLH if self.output_norm is None else self.output_norm(h_BLH)


def _normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * INITIAL_STANDARD_DEVIATION)

"""The student as two ONNX graphs: `encoder` (history → vector) and `topk` (vector → best items).

    encoder  items int64 [B, L], lengths int64 [B], context int64 [B, L, C] → vector float32 [B, W]
    topk     vector float32 [B, W], excluded int64 [B, X], item_bias float32 [1 or B, V], k int64 [1]
             → scores float32 [B, k], items int64 [B, k]

Histories are right-padded. `excluded` is filled up with −1. `item_bias` is added to the scores: −inf leaves an item out. Equal
scores stand by the smaller item index, which is a rule of ONNX. The same student gives the same bytes.

Shapes: B histories, L length, C columns of the context, V items, D width of the item embeddings, W width of the vector, X
excluded items.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from kdlib.errors import ConfigError, ModelError
from kdlib.models.files import quantise_rows
from kdlib.models.sequence import COLUMNS, SequenceModel

OPSET, IR_VERSION = 20, 10
TABLE = "item_vectors"
"""Name of the item table in a graph."""
MOST_BYTES = 2_000_000_000
"""Most bytes of an item table: an ONNX file holds less than 2 GiB."""


def check_size(model: SequenceModel) -> None:
    """Raise ConfigError where the student's item table does not fit into an ONNX file."""
    width = model.head()[0].shape[1]
    if (size := 4 * model.num_items * max(width, model.dim)) > MOST_BYTES:
        raise ConfigError(
            f"export: the student's item table takes {size / 1e9:.1f} GB as float32, and an ONNX file holds at most"
            f" {MOST_BYTES / 1e9:.0f} GB. Lower student.model.dim, or remove the section export"
        )


@torch.no_grad()
def write_graphs(folder: Path, model: SequenceModel, *, version: str, int8: bool) -> None:
    """Write `encoder.onnx` and `topk.onnx`; with `int8` also `encoder.int8.onnx` and `topk.int8.onnx`.

    The int8 forms hold the item table as int8 with one float32 scale a row. All else stays float32.

    Args:
      folder: an existing folder.
      model: in evaluation mode, on the CPU.
      version: of the student, for the metadata of the graphs.
      int8: see above.

    Raises:
      ModelError: PyTorch exports the layers in a form that this module does not know.
    """
    head_VW, bias_V = model.head()
    table_VD = model.item_vectors()
    encoder = _encoder(model, table_VD)
    for name, as_int8 in [("", False), *([(".int8", True)] if int8 else [])]:
        _write(_with_table(encoder, table_VD, as_int8), folder / f"encoder{name}.onnx", version)
        _write(_topk(head_VW, bias_V, as_int8), folder / f"topk{name}.onnx", version)


class _Encoder(nn.Module):
    """The student's layers, with the item table as an input."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, item_vectors: Tensor, items: Tensor, lengths: Tensor, context: Tensor) -> Tensor:
        hidden_BLW = self.model(items, context, lengths_B=lengths, item_vectors_VD=item_vectors)
        return hidden_BLW[torch.arange(items.shape[0]), lengths - 1]


def context_width(model: SequenceModel) -> int:
    """C: the columns of the context, and the user's values up to the last one that the model reads."""
    return len(COLUMNS) + max((1 + column for column in model.options["user_columns"].values()), default=0)


def _encoder(model: SequenceModel, table_VD: Tensor) -> onnx.ModelProto:
    """The layers as a graph whose item table is an input."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    example = (
        table_VD,
        torch.zeros(2, 3, dtype=torch.int64),
        torch.tensor([2, 1]),
        torch.zeros(2, 3, context_width(model), dtype=torch.int64),
    )
    logs = logging.getLogger("torch.onnx")
    level = logs.level
    logs.setLevel(logging.ERROR)  # it warns of torchvision, which nobody needs here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Encoder(model).eval(),
                example,
                input_names=[TABLE, "items", "lengths", "context"],
                output_names=["vector"],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({}, {0: batch, 1: length}, {0: batch}, {0: batch, 1: length}),
                verbose=False,
            )
    finally:
        logs.setLevel(level)
    assert program is not None
    return program.model_proto


def _with_table(encoder: onnx.ModelProto, table_VD: Tensor, int8: bool) -> onnx.ModelProto:
    """A copy of the encoder with the item table inside."""
    made = onnx.ModelProto()
    made.CopyFrom(encoder)
    graph = made.graph
    [given] = [one for one in graph.input if one.name == TABLE]
    graph.input.remove(given)
    readers = [node for node in graph.node if TABLE in node.input]
    if [(node.op_type, node.input[0]) for node in readers] != [("Gather", TABLE)]:
        raise ModelError(
            f"this PyTorch ({torch.__version__}) reads the item table with {[node.op_type for node in readers]} in ONNX, expected"
            " one Gather. Install the version of torch that distilrec's constraints.txt names, or remove the section export"
        )
    if not int8:
        graph.initializer.append(_constant(TABLE, table_VD))
        return made
    [look_up] = readers
    rows, scales, values = f"{TABLE}.rows", f"{TABLE}.scales", f"{TABLE}.values"
    nodes = [
        helper.make_node("Gather", [TABLE, look_up.input[1]], [rows], axis=0),
        helper.make_node("Gather", [f"{TABLE}.scale", look_up.input[1]], [scales], axis=0),
        helper.make_node("Cast", [rows], [values], to=TensorProto.FLOAT),
        helper.make_node("Mul", [values, scales], [look_up.output[0]]),
    ]
    place = list(graph.node).index(look_up)
    graph.node.remove(look_up)
    for number, node in enumerate(nodes):
        graph.node.insert(place + number, node)
    rows_VD, scale_V = quantise_rows(table_VD)
    graph.initializer.extend([_constant(TABLE, rows_VD), _constant(f"{TABLE}.scale", scale_V[:, None])])
    return made


def _topk(head_VW: Tensor, bias_V: Tensor | None, int8: bool) -> onnx.ModelProto:
    """Scores of all items, without the excluded ones, and the k best."""
    number, width = head_VW.shape
    constants, nodes = [], []

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    bias = "item_bias" if bias_V is None else "bias"
    if bias_V is not None:
        constants.append(_constant("output_bias", bias_V))
        add("Add", ["item_bias", "output_bias"], "bias")
    if int8:  # ONNX Runtime makes float32 of the rows once, when it loads the graph
        rows_VW, scale_V = quantise_rows(head_VW)
        constants += [_constant(TABLE, rows_VW), _constant(f"{TABLE}.scale", scale_V)]
        add("Cast", [TABLE], "rows", to=TensorProto.FLOAT)
        add("Gemm", ["vector", "rows"], "products", transB=1)
        add("Mul", ["products", f"{TABLE}.scale"], "scaled")
        add("Add", ["scaled", bias], "all_scores")
    else:
        constants.append(_constant(TABLE, head_VW))
        add("Gemm", ["vector", TABLE], "products", transB=1)
        add("Add", ["products", bias], "all_scores")
    # one more column takes what −1 excludes: an index of −1 means the last column
    for name, value in (("pads", [0, 0, 0, 1]), ("start", [0]), ("end", [number]), ("columns", [1])):
        constants.append(numpy_helper.from_array(np.array(value, np.int64), name))
    constants.append(numpy_helper.from_array(np.array(-np.inf, np.float32), "nothing"))
    add("Pad", ["all_scores", "pads"], "padded")
    add("Shape", ["excluded"], "shape")
    add("Expand", ["nothing", "shape"], "updates")
    add("ScatterElements", ["padded", "excluded", "updates"], "masked", axis=1)
    add("Slice", ["masked", "start", "end", "columns"], "left")
    nodes.append(helper.make_node("TopK", ["left", "k"], ["scores", "items"], axis=1, largest=1, sorted=1))
    floats, integers = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "topk",
        [
            helper.make_tensor_value_info("vector", floats, ["batch", width]),
            helper.make_tensor_value_info("excluded", integers, ["batch", "num_excluded"]),
            helper.make_tensor_value_info("item_bias", floats, ["one_or_batch", number]),
            helper.make_tensor_value_info("k", integers, [1]),
        ],
        [
            helper.make_tensor_value_info("scores", floats, ["batch", "length"]),
            helper.make_tensor_value_info("items", integers, ["batch", "length"]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def _constant(name: str, tensor: Tensor) -> onnx.TensorProto:
    return numpy_helper.from_array(tensor.contiguous().numpy(), name)


def _write(model: onnx.ModelProto, path: Path, version: str) -> None:
    """Write a graph without what PyTorch notes about its source: paths and lines of this machine."""
    graph = model.graph
    for one in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        one.ClearField("doc_string")
        if hasattr(one, "metadata_props"):
            del one.metadata_props[:]
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "distilrec", ""
    del graph.value_info[:]  # shapes of values in between, which need not be right any more
    model.metadata_props.add(key="student", value=version)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))

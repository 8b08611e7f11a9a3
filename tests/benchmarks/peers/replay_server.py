"""RePlay's compiled SasRec behind HTTP; runs in an environment with `replay-rec[torch]`, `openvino`, `onnx`, `starlette`, `uvicorn`.

The model has random weights: its speed does not depend on them. OpenVINO compiles it for single requests, on one thread. RePlay
has no server of its own. This one is the shortest that answers the same requests: it parses the session, asks the
compiled model for the scores of all items, leaves out the session's items and takes the top k.
"""

# pyright: reportMissingImports=false
# the peer's packages are not in this project's environment

import argparse
import warnings

import torch
import uvicorn
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.sequential.compiled import SasRecCompiled
from replay.models.nn.sequential.sasrec import SasRec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

K = 10


def compiled(options: argparse.Namespace) -> SasRecCompiled:
    """SasRec with one block and one head, compiled for single requests on one thread."""
    item = TensorFeatureInfo(
        "item_id",
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=options.dim,
        padding_value=options.items,
        cardinality=options.items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    )
    model = SasRec(
        TensorSchema([item]),
        block_count=1,
        head_count=1,
        hidden_size=options.dim,
        max_seq_len=options.max_length,
    )
    return SasRecCompiled.compile(model.eval(), mode="one_query", num_threads=1)


def main() -> None:
    """Serve until the process is ended."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    for name in ("--port", "--items", "--dim", "--max-length"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    model, length = compiled(options), options.max_length

    async def recommend(request: Request) -> JSONResponse:
        body = await request.json()
        items = torch.tensor([int(one["item"]) for one in body["session"]][-length:])
        padded = torch.full((1, length), options.items)
        padded[0, length - len(items) :] = items
        batch = {"query_id": torch.zeros(1, 1).long(), "padding_mask": padded != options.items}
        scores = model.predict(batch | {"feature_tensor": {"item_id": padded}})[0]
        scores[items] = -torch.inf
        best = torch.topk(scores, K)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return JSONResponse({"items": [{"item_id": str(item), "score": score} for item, score in pairs]})

    app = Starlette(routes=[Route("/recommend", recommend, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()

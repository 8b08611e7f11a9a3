"""Build the search index, and choose how much words and vectors count in a score."""

from collections.abc import Mapping

import torch

from jobs.runtime.console import say
from jobs.runtime.names import SEARCH_STUDENT
from jobs.runtime.product_search import chosen_weights, clicked, product_search, read_products, typed_queries
from jobs.runtime.stage import Details, Job
from kdlib.config.run import RunConfig
from kdlib.search.centring import NO_CENTRE, centre_of, centred
from kdlib.store.partitions import Manifest
from kdlib.teachers.text import read_vectors


def build(job: Job) -> Details:
    """Write the index with the given weights, or with weights that clicks choose."""
    products, settings = read_products(job.input("products")), product_search(job.config)
    vectors_VE = read_vectors(job.input("product_vectors"), "product_index")
    centre_E = centre_of([vectors_VE]) if settings.text.loses_mean else NO_CENTRE
    details = chosen_weights(
        settings,
        products,
        torch.from_numpy(centred(vectors_VE, centre_E)),
        job.output,
        job.input(SEARCH_STUDENT),
        clicked(typed_queries(job.inputs), job.inputs, products) if settings.weights == "clicks" else {},
        seed=job.config.seed,
        facts={
            "teacher": job.inputs["product_vectors"].manifest.details["teacher"],
            "history_weight": settings.history_weight,
        },
    )
    available = sum(products["available"].to_pylist())
    return {"search_index": details | {"products": len(products), "available": available}}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how near the student comes to its teacher, and which weights were chosen."""
    facts = manifests["search_index"].details
    say(
        f"build_search_index: {facts['products']:,} products; student {facts['parameters']:,} parameters, cosine to the"
        f" teacher {facts['cosine']:.3f} on {facts['held_out']:,} held-out queries, {facts['overlap@10']:.0%} of the"
        f" teacher's ten nearest products found; weights: {facts['weights']}"
    )

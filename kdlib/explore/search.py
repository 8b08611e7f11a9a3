"""Product search: the products that the published search finds for a query."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kdlib.explore.rendering import render
from kdlib.explore.run import Run
from kdlib.explore.shop import Shop

NEEDED = ("search_index", "models/search_student")


def search_missing(shop: Shop, run: Run) -> str:
    """Why the run cannot be searched, in a sentence. Empty: it can."""
    if not set(NEEDED) <= set(run.versions):
        return (
            f"The run of {run.ds} has no product search. Add the section search to the run config, and run distilrec"
            " nightly again."
        )
    return shop.search_missing


def search_view(shop: Shop, run: Run, query: str) -> Markup:
    """The best products for a query, with their scores. An empty query gets a hint."""
    if missing := search_missing(shop, run):
        return render("note", heading="Search", text=missing)
    if not query.strip():
        return render("note", heading="Search", text="Type a query to see what the search of this run finds.")
    index = _index(*(run.folder(name) for name in NEEDED))
    [answer] = index.answer([query], k=shop.k)
    products = index.products.take(answer.places).to_pylist()
    found = [product | {"score": score} for product, score in zip(products, answer.scores.tolist(), strict=True)]
    return render("found", query=query, note=answer.note, found=found)


@lru_cache(maxsize=1)
def _index(index: Path, student: Path) -> Any:
    """A published version never changes, so it is read once. The import needs the extra `search`."""
    from kdlib.search.index import load_index

    return load_index(index, student)

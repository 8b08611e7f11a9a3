"""Print what the search in use finds: `distilrec search "laptop"`."""

import time
from collections.abc import Sequence

from jobs.runtime.console import safe, say
from jobs.runtime.product_search import product_search
from kdlib import notebook
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.release import promotions
from kdlib.search.index import load_index
from kdlib.store import partitions

NAMES = ("search_index", "models/search_student")


def run(
    config: RunConfig, queries: Sequence[str], *, k: int, category: str | None, user: str | None, of_day: bool
) -> None:
    """Print the products that the search in use finds, for a user if one is named, by the shop's own id.

    With `of_day`, use the search and the history of the config's date.
    """
    product_search(config)
    started = time.monotonic()
    now = None if of_day else promotions.current(config.root)
    if now is not None and set(NAMES) <= set(now.versions):
        day, versions = now.ds, now.versions
        index, student = (promotions.folder_of(config.root, now, name) for name in NAMES)
    else:
        day, (index, student) = config.day, (partitions.current(config.root, name, config.day) for name in NAMES)
        made = {name: partitions.read_manifest(config.root, name, day) for name in ("histories", "item_vocabulary")}
        versions = {name: one.version for name, one in made.items() if one}
    for folder in (index, student):
        if not folder.exists():
            raise InputError(
                f"no search of {day} under {config.place()}: run `distilrec nightly` or `distilrec train-search`"
            )
    viewed = notebook.history(notebook.Run(config, day, versions), user)["item_id"].to_pylist() if user else []
    loaded = load_index(index, student)
    ready = time.monotonic()
    answers = loaded.answer(list(queries), k=k, category=category, history=viewed)
    for query, answer in zip(queries, answers, strict=True):
        say(f"{query!r}{f': {answer.note}' if answer.note else ''}")
        shown = loaded.products.take(answer.places)
        names = zip(shown["title"].to_pylist(), shown["item_id"].to_pylist(), answer.scores.tolist(), strict=True)
        for rank, (title, item_id, score) in enumerate(names, start=1):
            say(f"  {rank:>3}  {score:>7.4f}  {safe(title or item_id)}")
    say(f"search of {day}: loaded in {ready - started:.2f} s, answered in {(time.monotonic() - ready) * 1000:.0f} ms")

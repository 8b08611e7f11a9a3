"""Print what the search in use finds: `distilrec search "laptop"`."""

import argparse
import sys
import time

from jobs.runtime.console import command, safe, say
from jobs.runtime.product_search import search_settings
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.release import promotions
from kdlib.search.index import load_index
from kdlib.store import partitions

NAMES = ("search_index", "models/search_student")


def _run(config: RunConfig, arguments: argparse.Namespace) -> None:
    search_settings(config)
    started = time.monotonic()
    now = None if arguments.ds else promotions.current(config.root)
    if now is not None and set(NAMES) <= set(now.versions):
        day, (index, student) = now.ds, (promotions.folder_of(config.root, now, name) for name in NAMES)
    else:
        day, (index, student) = config.day, (partitions.current(config.root, name, config.day) for name in NAMES)
    for folder in (index, student):
        if not folder.exists():
            raise InputError(
                f"no search of {day} under {config.root}: run `distilrec nightly` or `distilrec train-search`"
            )
    loaded = load_index(index, student)
    ready = time.monotonic()
    for query, answer in zip(
        arguments.query, loaded.answer(arguments.query, k=arguments.k, category=arguments.category), strict=True
    ):
        say(f"{query!r}{f': {answer.note}' if answer.note else ''}")
        shown = loaded.products.take(answer.places)
        names = zip(shown["title"].to_pylist(), shown["item_id"].to_pylist(), answer.scores.tolist(), strict=True)
        for rank, (title, item_id, score) in enumerate(names, start=1):
            say(f"  {rank:>3}  {score:>7.4f}  {safe(title or item_id)}")
    say(f"search of {day}: loaded in {ready - started:.2f} s, answered in {(time.monotonic() - ready) * 1000:.0f} ms")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", nargs="+", help="what a shopper types; several queries in quotes of their own")
    parser.add_argument("-k", type=_positive, default=10, help="how many products (default: %(default)s)")
    parser.add_argument("--category", help="only products of this category")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    return command(
        "search",
        lambda config: None,
        argv,
        description=__doc__ or "",
        add_arguments=_add_arguments,
        with_arguments=_run,
        reads_only=True,
        in_use=True,
        ds_help="the night, YYYY-MM-DD (default: the one in use)",
    )


if __name__ == "__main__":
    sys.exit(main())

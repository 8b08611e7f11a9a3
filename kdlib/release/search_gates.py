"""The checks that product search must pass before it is published, as `kdlib.release.gates`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kdlib.release.gates import TRAILING, Gate, against_median, judged, skipped

SearchFacts = Mapping[str, Any]
"""Details in the manifests of `search_index` and `search_rankings` together."""
PART = "search"
COMPARED = {"search_over_words": "words alone", "search_over_last_night": "search in use"}
"""Gate → the other search that it compares with."""
LEAST_OVERLAP_RATIO = 0.5
"""Least ratio to the trailing median of the share of the teacher's nearest products that the student finds. Healthy
runs differ by a few hundredths. A student that did not learn finds almost none."""


@dataclass(frozen=True)
class Difference:
    """NDCG@10 of the run's search on clicked queries, and the paired difference from another search."""

    queries: int
    ndcg: float
    other_ndcg: float
    low: float
    """Lower end of the 95% interval of the difference."""
    high: float


def search_gates(
    tonight: SearchFacts,
    earlier: Sequence[SearchFacts],
    compared: Mapping[str, Difference | str],
    *,
    min_volume_ratio: float,
    max_share_rise: float,
    max_empty_search_share: float,
    max_search_milliseconds: float,
    max_search_loss: float | None,
) -> list[Gate]:
    """Judge a run's product search by fixed bounds, by the trailing median, and against two other searches.

    A comparison fails if the whole 95% interval of the paired difference lies below the bound.

    Args:
      tonight: the run's facts.
      earlier: the facts of the last promoted runs with product search.
      compared: gate of `COMPARED` → the difference, or why there is none.
      min_volume_ratio: least ratio to the median, for available products and logged queries.
      max_share_rise: how far the share of queries without an answer may lie above the median.
      max_empty_search_share: greatest share of queries without an answer, whatever earlier runs had.
      max_search_milliseconds: greatest median time of one answer.
      max_search_loss: minus the bound of a difference; None switches these gates off.
    """
    return [
        *_volumes(tonight, earlier, least=min_volume_ratio),
        *_empty(tonight, earlier, most=max_empty_search_share, rise=max_share_rise),
        judged(
            "search_milliseconds",
            tonight["milliseconds"],
            high=max_search_milliseconds,
            text=f"median milliseconds of one search on one thread; 99 of 100 take at most {tonight['milliseconds_p99']:,.4g}",
            part=PART,
        ),
        _student(tonight, earlier),
        *(_comparison(gate, compared[gate], allowed=max_search_loss) for gate in COMPARED),
    ]


def _volumes(tonight: SearchFacts, earlier: Sequence[SearchFacts], *, least: float) -> list[Gate]:
    usual = _median([night["available"] for night in earlier if "available" in night])
    text = "available products" if usual is None else f"available products; the {TRAILING} is {usual:,.4g}"
    products = judged("search_products", tonight["available"], low=max(1, least * (usual or 0)), text=text, part=PART)
    if tonight["logged"] is None:
        return [products, skipped("search_queries", "the shop has no search log", part=PART)]
    usual = _median([night["logged"] for night in earlier if night.get("logged")])
    bounds = {} if usual is None else {"low": least * usual}
    return [
        products,
        against_median("search_queries", tonight["logged"], usual, bounds, "different queries in the search log", PART),
    ]


def _empty(tonight: SearchFacts, earlier: Sequence[SearchFacts], *, most: float, rise: float) -> list[Gate]:
    """Without logged queries the head queries are the categories, and no measure for logged queries."""
    text = (
        f"share of the {'head queries' if tonight['logged'] else 'categories, searched as queries,'} without an answer"
    )
    alike = [_empty_share(night) for night in earlier if bool(night.get("logged")) == bool(tonight["logged"])]
    usual = _median(alike)
    bounds = {} if usual is None else {"high": usual + rise}
    return [
        judged("search_empty_share", _empty_share(tonight), high=most, text=text, part=PART),
        against_median("search_empty_rise", _empty_share(tonight), usual, bounds, text, PART),
    ]


def _student(tonight: SearchFacts, earlier: Sequence[SearchFacts]) -> Gate:
    usual = _median([night["overlap@10"] for night in earlier])
    bounds = {} if usual is None else {"low": LEAST_OVERLAP_RATIO * usual}
    text = "share of the teacher's ten nearest products that the search student finds"
    return against_median("search_student", tonight["overlap@10"], usual, bounds, text, PART)


def _comparison(gate: str, found: Difference | str, *, allowed: float | None) -> Gate:
    if allowed is None or isinstance(found, str):
        return skipped(gate, "switched off" if allowed is None else str(found), part=PART)
    text = (
        f"upper end of the interval of NDCG@10 search - {COMPARED[gate]}, {found.ndcg:.4f} - {found.other_ndcg:.4f} ="
        f" {found.ndcg - found.other_ndcg:+.4f} [{found.low:+.4f}, {found.high:+.4f}], on {found.queries:,} clicked queries"
    )
    return judged(gate, found.high, low=0.0 - allowed, text=text, part=PART)


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None


def _empty_share(night: SearchFacts) -> float:
    return 1 - night["answered"] / night["queries"]

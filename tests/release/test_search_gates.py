"""The gates of product search: products, queries, empty answers, time, student, and NDCG on clicked queries."""

import pytest

from jobs.check_search import BOUNDS
from kdlib.config.operations import GatesConfig
from kdlib.release.gates import failed, in_words
from kdlib.release.search_gates import COMPARED, Difference, search_gates

USUAL = {
    "available": 1_000,
    "overlap@10": 0.6,
    "queries": 200,
    "answered": 190,
    "logged": 300,
    "milliseconds": 2.0,
    "milliseconds_p99": 4.0,
}
EVEN = Difference(queries=120, ndcg=0.45, other_ndcg=0.44, low=-0.02, high=0.04)


def judge(earlier=(USUAL,) * 3, compared=None, bounds=None, **changes):
    limits = GatesConfig().model_dump(include=set(BOUNDS)) | (bounds or {})
    found = search_gates(USUAL | changes, earlier, compared or dict.fromkeys(COMPARED, EVEN), **limits)
    return {gate.gate: gate for gate in found}


def test_a_usual_night_passes_every_gate():
    """A run like the ones before it passes, also without a log: then what needs a log is skipped."""
    assert {gate.status for gate in judge().values()} == {"passed"}
    why = dict.fromkeys(COMPARED, "the shop has no search log")
    found = judge([USUAL | {"logged": None}], compared=why, logged=None)
    assert {name for name, gate in found.items() if gate.status == "skipped"} == {"search_queries", *COMPARED}
    assert found["search_over_words"].text == "the shop has no search log"
    assert {gate.part for gate in found.values()} == {"search"}


@pytest.mark.parametrize(
    ("gate", "outside", "at_the_bound"),
    [
        ("search_products", {"available": 499}, {"available": 500}),
        ("search_queries", {"logged": 149}, {"logged": 150}),
        ("search_empty_share", {"answered": 99}, {"answered": 100}),
        ("search_empty_rise", {"answered": 169}, {"answered": 170}),
        ("search_milliseconds", {"milliseconds": 500.1}, {"milliseconds": 500.0}),
        ("search_student", {"overlap@10": 0.29}, {"overlap@10": 0.3}),
    ],
)
def test_each_gate_fails_just_outside_its_bound(gate, outside, at_the_bound):
    """One step beyond the bound fails the gate, and its line has the bound. The bound itself passes."""
    found = judge(**outside)[gate]
    assert found.status == "failed"
    assert f"{gate} {found.value:,.4g}, must be at " in in_words(found)
    assert judge(**at_the_bound)[gate].status == "passed"


def test_a_first_night_is_judged_by_absolute_bounds_alone():
    """Without earlier runs a good search passes. Without an available product, or without answers, it fails."""
    good = judge(earlier=())
    assert not failed(good.values())
    assert {name for name, gate in good.items() if gate.status == "skipped"} == {
        "search_queries",
        "search_empty_rise",
        "search_student",
    }
    sold_out = judge(earlier=(), available=0, answered=0)
    assert {gate.gate for gate in failed(sold_out.values())} == {"search_products", "search_empty_share"}


def test_an_empty_search_log_fails_although_every_category_has_an_answer():
    """The head queries of an empty log are the categories. They are no measure for logged queries, nor the other way."""
    empty = judge(logged=0, queries=8, answered=8)
    assert {gate.gate for gate in failed(empty.values())} == {"search_queries"}
    assert empty["search_empty_rise"].status == "skipped"
    assert "categories, searched as queries" in empty["search_empty_share"].text
    began = judge([USUAL | {"logged": None, "answered": 200}] * 3, answered=150)
    assert not failed(began.values())
    assert (began["search_queries"].status, began["search_empty_rise"].status) == ("skipped", "skipped")


def test_nights_from_before_the_gates_are_no_measure():
    """Manifests of an older version lack the available products and the logged queries."""
    old = {name: value for name, value in USUAL.items() if name in ("overlap@10", "queries", "answered")}
    found = judge([old], available=3)
    assert not failed(found.values())
    assert found["search_products"].low == 1


@pytest.mark.parametrize("gate", COMPARED)
def test_a_certain_loss_on_clicked_queries_fails_and_a_noisy_one_does_not(gate):
    """The whole interval of the difference must lie below minus the allowed loss. The text has both figures."""
    noisy = Difference(120, 0.40, 0.43, low=-0.06, high=-0.01)
    certain = Difference(120, 0.40, 0.43, low=-0.06, high=-0.0101)
    assert judge(compared=dict.fromkeys(COMPARED, EVEN) | {gate: noisy})[gate].status == "passed"
    found = judge(compared=dict.fromkeys(COMPARED, EVEN) | {gate: certain})
    assert [one.gate for one in failed(found.values())] == [gate]
    assert f"search - {COMPARED[gate]}, 0.4000 - 0.4300 = -0.0300 [-0.0600, -0.0101], on 120" in found[gate].text
    off = judge(compared=dict.fromkeys(COMPARED, certain), bounds={"max_search_loss": None})
    assert (off[gate].status, off[gate].text) == ("skipped", "switched off")

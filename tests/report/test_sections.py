"""The contents of the sections of the page."""

import re
from dataclasses import replace

import pytest
from markupsafe import Markup

from kdlib.report.beyond import beyond
from kdlib.report.content import Gate, Measure, Use
from kdlib.report.costs import models, time_spent
from kdlib.report.distillation import distillation, gap_closed
from kdlib.report.drift import drift, movers, popularity_drift
from kdlib.report.exposition import exposition
from kdlib.report.funnel import funnel
from kdlib.report.gates import gates
from kdlib.report.headline import decision, headline
from kdlib.report.labels import bounds
from kdlib.report.people import people
from kdlib.report.quality import quality
from kdlib.report.slices import slices
from tests.report.nights import BEFORE, DS, GATES, METRICS, NIGHT, with_metrics


def _gate(status: str, value: float | None = 40.4, low: float | None = 5.0, high: float | None = 20.0) -> Gate:
    return Gate("history_length", "input", value, low, high, status, "far too long")


def test_the_verdict_is_one_sentence() -> None:
    """Published, forced, blocked and unfinished runs differ. A failed gate counts more than a finished table."""
    assert decision(NIGHT) == ("good", "✓ Published: 80 users have their lists; all 2 gates passed.")
    assert decision(replace(NIGHT, gates=())) == (
        "good",
        "✓ Published: 80 users have their lists. No gates were judged.",
    )
    forced = decision(replace(NIGHT, gates=(_gate("forced"), *GATES)))
    assert forced == (
        "warn",
        "! Published by force: 80 users have their lists, although history length is 40.4, allowed 5 to 20.",
    )
    failed = replace(NIGHT, gates=(_gate("failed"), _gate("failed"), *GATES), use=Use(BEFORE))
    blocked = decision(failed)
    assert blocked == (
        "bad",
        "✕ Blocked by gates: history length is 40.4, allowed 5 to 20, and 1 more. The run of 21\u00a0Nov is in use.",
    )
    assert decision(replace(NIGHT, lists=None))[0] == "bad"


@pytest.mark.parametrize(
    ("use", "verdict"),
    [
        (Use("2026-11-23", promoted=True), ("good", "✓ Published: {}; all 2 gates passed.")),
        (Use(), ("warn", "! Not in use: {}, but the run is not promoted. No run is in use.")),
        (Use(BEFORE), ("warn", "! Not in use: {}, but the run is not promoted. The run of 21\u00a0Nov is in use.")),
        (
            Use(DS),
            ("warn", "! Not in use: {}, but the run is not promoted. Another table of the same day is in use."),
        ),
        (
            Use(BEFORE, frozen="sale"),
            ("warn", "! Not in use: {}, but the run in use is frozen (sale). The run of 21\u00a0Nov is in use."),
        ),
        (Use("2026-11-23"), ("warn", "! Not in use: {}, but the later run of 23\u00a0Nov stays in use.")),
        (
            Use(BEFORE, promoted=True, rolled_back_to=BEFORE, reason="bad prices"),
            (
                "warn",
                "! Withdrawn: {}, but a rollback to 21\u00a0Nov (bad prices) took them out of use. The run of 21\u00a0Nov is in use.",
            ),
        ),
    ],
)
def test_the_verdict_is_about_what_is_in_use(use: Use, verdict: tuple[str, str]) -> None:
    """A finished table counts as published only if it was put in use and not withdrawn."""
    style, sentence = verdict
    assert decision(replace(NIGHT, use=use)) == (style, sentence.format("80 users have their lists"))


def test_a_blocked_night_says_what_stays() -> None:
    """Its own table can be in use, if the gates were judged again after the promotion."""
    blocked = replace(NIGHT, gates=(_gate("failed"),))
    for use, sentence in (
        (Use(), "No run is in use."),
        (Use(DS, promoted=True), "Its table is still in use."),
        (Use(DS), "Another table of the same day is in use."),
    ):
        assert decision(replace(blocked, use=use))[1].endswith(f"allowed 5 to 20. {sentence}")


def test_bounds_in_words() -> None:
    """One-sided bounds have their own words, and minus zero is zero."""
    assert bounds(_gate("passed")) == "5 to 20"
    assert bounds(_gate("passed", high=None)) == "5 or more"
    assert bounds(_gate("passed", low=None)) == "20 or less"
    assert bounds(_gate("passed", low=-0.0, high=None)) == "0 or more"


def test_headline_compares_the_student() -> None:
    """The tiles compare the student with popular items, the student without teachers and the model in use."""
    html = headline(NIGHT)
    for expected in (
        "0.2500",
        "+0.1500",
        "[+0.1000, +0.2000]",
        "+0.0500",
        "−0.0100",
        "no clear difference",
        "table ",
        "v2",
    ):
        assert expected in html
    assert "Share of the best reachable" not in html


def test_gates_that_failed_come_first() -> None:
    """Failed gates come first in their part. A skipped gate has no value. Earlier runs are a small line."""
    html = gates(replace(NIGHT, gates=(*GATES, replace(_gate("failed"), name="too_long"))))
    assert html.index("too long") < html.index("history length") < html.index("test users")
    assert "history_length over the runs: 21\u00a0Nov 12, 22\u00a0Nov 12.5" in html
    assert html.count("<polyline") == 1


def test_the_funnel_adds_up_beside_last_night() -> None:
    """Each count has its share and its change in one row, also a reason that only one of the runs has."""
    html = funnel(NIGHT)
    assert "1,000 rows read = 900 kept + 40 duplicate + 60 quarantined" in html

    def row(label: str, *cells: str) -> str:
        return f'<th scope="row">{label}</th>' + "".join(f'<td class="num">{cell}</td>' for cell in cells)

    assert row("rows read", "1,000", "100.00%", "990", "+10") in html
    assert row("bot user", "10", "1.00%", "0", "+10") in html
    assert row("corrupt row", "0", "0.00%", "10", "−10") in html
    assert row("users", "80", "", "80", "±0") in html
    assert "Change" not in funnel(replace(NIGHT, previous=None, previous_funnel=None))
    assert "filtered" not in html


def test_filtered_rows_are_in_the_funnel_of_an_input_with_a_filter() -> None:
    """Filtered rows have a part of the bar and a row of the table, and the reasons stay indented."""
    html = funnel(replace(NIGHT, funnel={**(NIGHT.funnel or {}), "rows_read": 1500, "filtered": 500}))
    assert "1,500 rows read = 900 kept + 40 duplicate + 500 filtered + 60 quarantined" in html
    assert '<th scope="row">filtered</th><td class="num">500</td><td class="num">33.33%</td>' in html
    assert "is a duplicate, is filtered, or is quarantined" in html
    assert html.index('class="part"') > html.index(">quarantined<")


def test_the_gap_is_closed_only_where_there_is_one() -> None:
    """(0.25 − 0.20) / (0.30 − 0.20) is half. If the teacher's interval includes 0, no share is shown."""
    assert gap_closed(NIGHT, "ndcg@10") == ("teacher", pytest.approx(0.5))
    assert "Distillation closes <strong>50%</strong>" in str(distillation(NIGHT))
    noisy = with_metrics(teacher__control=Measure(0.10, -0.01, 0.21, 60))
    assert gap_closed(noisy, "ndcg@10") is None
    assert "there is no gap to close" in str(distillation(noisy))


def test_the_ensemble_is_the_reference_where_there_is_one() -> None:
    """With several teachers, the gap is measured to the ensemble."""
    several = with_metrics(ensemble=Measure(0.40, 0.3, 0.5, 60), ensemble__control=Measure(0.20, 0.1, 0.3, 60))
    assert gap_closed(several, "ndcg@10") == ("ensemble", pytest.approx(0.25))


def test_the_page_says_what_distillation_is_worth_and_what_it_costs() -> None:
    """Shows three models with sizes, and the expected metric if the truth is known. Needs a control."""
    html = str(distillation(NIGHT))
    assert "+0.0500" in html
    assert "or +25%: higher" in html
    assert "next item of 60 test users" in html
    truth = {
        ("student", "expected_ndcg@10"): 0.30,
        ("control", "expected_ndcg@10"): 0.20,
        ("teacher", "expected_ndcg@10"): 0.35,
    }
    pairs = {("student - control", "expected_ndcg@10"): 0.10, ("teacher - control", "expected_ndcg@10"): 0.15}
    known = {key: Measure(value, value - 0.01, value + 0.01, 900) for key, value in (truth | pairs).items()}
    html = str(distillation(replace(NIGHT, metrics={**METRICS, **known})))
    assert "expected NDCG@10" in html
    assert "<strong>67%</strong>" in html
    assert "for 900 users" in html
    without = {key: one for key, one in METRICS.items() if "control" not in key[0]}
    assert distillation(replace(NIGHT, metrics=without)) is None


def test_a_difference_is_found_in_either_direction() -> None:
    """`control - student` is `student - control` with the opposite sign and swapped bounds."""
    assert NIGHT.difference("control", "student", "ndcg@10") == Measure(-0.05, -0.08, -0.02, 60)
    assert NIGHT.difference("student", "markov", "ndcg@10") is None


def test_quality_tells_what_a_rule_costs() -> None:
    """Under rules, the student without a rule is no model of its own: only its difference is shown, and explained."""
    one = Measure(0.24, 0.21, 0.27, 60)
    ruled = {(name, "ndcg@10"): one for name in ("with_rules", "without_at_most", "without_at_most - with_rules")}
    html = quality(replace(NIGHT, metrics={**METRICS, **ruled}))
    assert ">student under the rules<" in html
    assert ">student without at_most<" not in html
    assert "student without at_most − student under the rules" in html
    assert "the rule costs that much" in html
    assert "the rule costs that much" not in quality(NIGHT)


def test_quality_without_some_models() -> None:
    """Only measured values are shown. Without a control there is no gap, and one run has no trend."""
    only = {key: measure for key, measure in METRICS.items() if key[0] == "student" and key[1] == "ndcg@10"}
    html = quality(replace(NIGHT, metrics=only, trend={"student": NIGHT.trend["student"][1:]}))
    assert "0.2500" in html
    for unexpected in ("gap", "Differences", "over the last", "without teacher"):
        assert unexpected not in html


def _cells_of(html: Markup | None, label: str) -> list[str]:
    """The cells of the row of a table with this label."""
    row = re.search(rf'<th scope="row">{re.escape(label)}</th>((?:\s*<td.*?</td>)*)', str(html))
    return re.findall(r"<td[^>]*>(.*?)</td>", row[1]) if row else []


def test_beyond_accuracy_has_a_row_for_each_model_and_segment() -> None:
    """Values have their interval in brackets. What was not measured is empty, and each column is explained."""
    html = beyond(NIGHT)
    student = ["62.5%", "7.98 [7.95, 8.01]", "93.0 [91.2, 94.9]", "0.28 [0.27, 0.29]", "3.1% [2.5%, 3.7%]", "0.68"]
    assert _cells_of(html, "student") == student
    assert _cells_of(html, "popular items") == ["0.9%", "", "2,590 [2,589, 2,591]", "", "", ""]
    assert _cells_of(html, "up to 4 items") == ["41.0%", "", "", "0.25 [0.24, 0.26]", "", ""]
    assert _cells_of(html, "country = de") == ["", "", "", "0.30 [0.29, 0.31]", "", ""]
    assert "student, by country" in str(html)
    assert "coverage: the first 20" in str(html)
    assert "first seen in the last 30 days" in str(html)
    assert str(html).count("<li>") == 6


def test_beyond_accuracy_shows_what_an_older_run_measured() -> None:
    """A run with coverage alone has one column and its explanation. A run without metrics has no section."""
    only = {key: one for key, one in METRICS.items() if key[1] in ("ndcg@10", "coverage@20")}
    html = beyond(replace(NIGHT, metrics=only, new_item_days=None))
    assert _cells_of(html, "student") == ["62.5%"]
    assert str(html).count("<li>") == 1
    assert "length of the history" not in str(html)
    assert beyond(replace(NIGHT, metrics={})) is None


def test_slices_are_told_apart() -> None:
    """Slices by history, by a feature of the users and by item have a chart and a table each. No slices, no section."""
    html = slices(NIGHT)
    assert html is not None
    assert html.count("<table") == html.count("<figure") == 3
    assert "NDCG@10 by country" in html
    assert html.index("up to 4 items") < html.index("head (most popular)")
    assert ">head<" not in html
    assert slices(replace(NIGHT, metrics={("student", "ndcg@10"): METRICS["student", "ndcg@10"]})) is None


def test_event_types_have_their_recall() -> None:
    """The recall of views and purchases has a chart and a table of its own, with the difference to the control."""
    of_type = {
        (model, f"recall@20/{name}"): Measure(value, value - 0.05, value + 0.05, 40)
        for model, shift in (("student", 0.0), ("control", -0.02), ("student - control", -0.2))
        for name, value in (("view", 0.25 + shift), ("purchase", 0.3125 + shift))
    }
    html = slices(replace(NIGHT, metrics={**METRICS, **of_type}))
    assert html is not None
    assert html.count("<table") == html.count("<figure") == 4
    assert "Recall@20 by type of the next event" in html
    assert re.search(r"purchase.*40.*0\.312.*\+0\.112", html, re.DOTALL)


def test_a_function_of_the_users_own_has_a_row_without_sizes() -> None:
    """The report and the telemetry leave out the unknown sizes of a function."""
    nothing = dict.fromkeys(("parameters", "parameters_without_item_tables", "bytes"))
    mine = {"version": "f1", "epochs": [], "options": {"kind": "function"}, "validation": {"recall@10": 0.3}} | nothing
    night = replace(NIGHT, models={**NIGHT.models, "teacher": mine})
    assert re.search(r"teacher.*function.*f1.*0\.300", models(night), re.DOTALL)
    assert "None" not in models(night)
    html = distillation(night)
    assert html is not None
    assert "None" not in html
    told = exposition(night, in_use=None, status=None).decode()
    assert re.findall(r'model_parameters{model="(\w+)"', told) == ["student"]


def test_models_of_any_kind_have_a_row() -> None:
    """A rules teacher has a row beside the student, although it has no epochs and no validation."""
    html = models(NIGHT)
    assert "rules" in html
    assert "gru, 48 wide" in html
    assert "0.20 MB" in html
    assert "50,080" in html


def test_bars_are_as_long_as_the_stages() -> None:
    """The longest stage fills the width. A stage with a fifth of its time fills a fifth."""
    html = time_spent(NIGHT)
    assert 'width="100.00%"' in html
    assert 'width="20.00%"' in html
    assert "3 min 00 s in all" in html


def test_drift_by_hand() -> None:
    """Counts 6, 2, 2 against 5, 5, 0: shares .6 .2 .2 and .5 .5 0, distance .3. The second item loses."""
    import numpy as np

    distance, shares, earlier = popularity_drift(np.array([6, 2, 2]), np.array([5, 5, 0]))
    assert distance == pytest.approx(0.3)
    rising, falling = movers(shares, earlier)
    assert rising.tolist() == [2, 0]
    assert falling.tolist() == [1]
    assert popularity_drift(np.array([0, 0]), np.array([0, 3]))[0] == pytest.approx(0.5)


def test_drift_in_words() -> None:
    """Shows the distance, new items and users with popular items. A first run has no movers."""
    html = drift(NIGHT)
    for expected in (
        "12.5% of the interactions",
        "2 of them are new",
        "usable history: 4 (5.00%; 3.85% on 21\u00a0Nov)",
        "+4.00",
        "−10.00",
    ):
        assert expected in html
    assert NIGHT.drift is not None
    first = drift(replace(NIGHT, drift=replace(NIGHT.drift, previous=None)))
    assert "no earlier run" in first
    assert "<table" not in first


def test_a_user_s_list_has_its_reasons() -> None:
    """Shows the history, the list, the scores, and the reasons if the table has reasons."""
    html = people(NIGHT)
    assert "12 interactions, the last 1" in html
    assert "22 Nov 08:30" in html
    assert html.count("because of") == 1
    assert "1.50" in html

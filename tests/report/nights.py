"""A small run that has every section of the page. Tests change parts of it."""

from dataclasses import replace
from datetime import UTC, datetime

from kdlib.report.content import Drift, Gate, Lists, Measure, Mover, Night, Recommended, Search, Use, User

DS, BEFORE = "2026-11-22", "2026-11-21"
EVIL = '<script>alert(1)</script> & "Söhne"'
FUNNEL = {
    "rows_read": 1000,
    "kept": 900,
    "duplicate": 40,
    "quarantined": 60,
    "reasons": {"bad_time": 50, "bot_user": 10},
    "first_event": "2026-11-01 00:00:00",
    "last_event": "2026-11-22 23:00:00",
    "users": 80,
    "sessions": 120,
    "interactions": 700,
    "items": 50,
}
METRICS = {
    ("popularity", "ndcg@10"): Measure(0.10, 0.08, 0.12, 60),
    ("teacher", "ndcg@10"): Measure(0.30, 0.27, 0.33, 60),
    ("student", "ndcg@10"): Measure(0.25, 0.22, 0.28, 60),
    ("student", "hr@10"): Measure(0.45, 0.40, 0.50, 60),
    ("student", "mrr@10"): Measure(0.20, 0.15, 0.25, 60),
    ("student", "accuracy@1"): Measure(0.11, 0.09, 0.13, 60),
    ("student", "coverage@20"): Measure(0.625, None, None, 60),
    ("student", "novelty@10"): Measure(7.981, 7.949, 8.012, 60),
    ("student", "popularity@10"): Measure(92.99, 91.18, 94.92, 60),
    ("student", "diversity@10"): Measure(0.282, 0.271, 0.293, 60),
    ("student", "new_items@10"): Measure(0.0312, 0.0250, 0.0370, 60),
    ("student", "gini@10"): Measure(0.68, None, None, 60),
    ("popularity", "coverage@20"): Measure(0.009, None, None, 60),
    ("popularity", "popularity@10"): Measure(2590.4, 2589.4, 2591.4, 60),
    ("student", "coverage@20/up to 4 items"): Measure(0.41, None, None, 30),
    ("student", "diversity@10/country = de"): Measure(0.301, 0.290, 0.312, 20),
    ("student", "ndcg@10/country = de"): Measure(0.27, 0.21, 0.33, 20),
    ("control", "ndcg@10/country = de"): Measure(0.26, 0.20, 0.32, 20),
    ("student", "diversity@10/up to 4 items"): Measure(0.251, 0.240, 0.262, 30),
    ("control", "ndcg@10"): Measure(0.20, 0.17, 0.23, 60),
    ("student - control", "ndcg@10"): Measure(0.05, 0.02, 0.08, 60),
    ("teacher - control", "ndcg@10"): Measure(0.10, 0.04, 0.16, 60),
    ("student - popularity", "ndcg@10"): Measure(0.15, 0.10, 0.20, 60),
    ("student - last_night", "ndcg@10"): Measure(-0.01, -0.03, 0.01, 60),
    ("student", "ndcg@10/head"): Measure(0.40, 0.35, 0.45, 20),
    ("control", "ndcg@10/head"): Measure(0.39, 0.34, 0.44, 20),
    ("student", "ndcg@10/up to 4 items"): Measure(0.21, 0.15, 0.27, 30),
    ("student", "calibration_error@10"): Measure(0.035, None, None, 60),
    ("student", "confidence@10/tenth 1"): Measure(0.11, None, None, 30),
    ("student", "hr@10/tenth 1"): Measure(0.15, 0.09, 0.21, 30),
    ("student", "confidence@10/tenth 2"): Measure(0.62, None, None, 30),
    ("student", "hr@10/tenth 2"): Measure(0.59, 0.48, 0.70, 30),
    ("control", "ndcg@10/up to 4 items"): Measure(0.22, 0.16, 0.28, 30),
}
GATES = (
    Gate(
        "history_length",
        "input",
        12.5,
        5.0,
        20.0,
        "passed",
        "12.5 items in a mean history",
        ((BEFORE, 12.0), (DS, 12.5)),
    ),
    Gate("test_users", "quality", 60, 30, None, "passed", "60 test users"),
    Gate("student_over_last_night", "quality", None, -0.0, None, "skipped", "nothing to compare with"),
)
USER = User(
    EVIL,
    12,
    ((datetime(2026, 11, 22, 8, 30, tzinfo=UTC), "cart", EVIL),),
    "model",
    "m1",
    datetime(2026, 11, 23, tzinfo=UTC),
    (Recommended(EVIL, 1.5, (EVIL,)), Recommended("lamp", 0.5, pinned=True)),
)
SEARCH = Search(
    1_000,
    {"rows_read": 500, "kept": 450, "duplicate": 20, "quarantined": 30, "queries": 77, "rare_queries": 5, "pairs": 200},
    {"typed": 77, "made_up": 9_000},
    {
        "parameters": 2_048_896,
        "cosine": 0.918,
        "held_out": 300,
        "weights": {"vector": 2.0, "intent": 1.5, "chosen": "by the clicks after 40 queries"},
        "clicks": {"queries": 41, "ndcg@10": 0.44, "ndcg@10_words_alone": 0.40},
    },
    77,
    75,
    ((EVIL, 12, (EVIL, "lamp")), ("boots", 3, ())),
)
NIGHT = Night(
    name="shop",
    ds=DS,
    k=10,
    previous=BEFORE,
    funnel=FUNNEL,
    previous_funnel=FUNNEL | {"rows_read": 990, "kept": 890, "reasons": {"bad_time": 50, "corrupt_row": 10}},
    gates=GATES,
    metrics=METRICS,
    left_out=7,
    new_item_days=30,
    trend={
        "student": ((BEFORE, Measure(0.24, 0.21, 0.27, 60)), (DS, Measure(0.25, 0.22, 0.28, 60))),
        "popularity": ((DS, Measure(0.10, 0.08, 0.12, 60)),),
    },
    models={
        "teacher": {"version": "t1", "parameters": 9, "options": {"kind": "rules"}},
        "student": {
            "version": "m1",
            "parameters": 50_080,
            "parameters_without_item_tables": 13_504,
            "bytes": 201_000,
            "options": {"kind": "gru", "dim": 32, "hidden": 48},
            "epochs": [{}, {}],
            "validation": {"recall@10": 0.3, "ndcg@10": 0.16},
        },
    },
    seconds={"build-features": 30.0, "distill": 150.0},
    lists=Lists("v2", "m1", 80, 4, 10),
    use=Use(DS, promoted=True),
    previous_lists=Lists("v1", "m0", 78, 3, 10),
    drift=Drift(50, 2, BEFORE, 0.125, (Mover(EVIL, 0.01, 0.05),), (Mover("boots", 0.2, 0.1),)),
    users=(USER,),
    search=SEARCH,
    notes=("A note.",),
)


def blocked_before_training() -> Night:
    """A run with only features and gates. One gate failed."""
    failed = Gate("history_length", "input", 40.4, 5.0, 20.0, "failed", "far too long")
    return Night(name="shop", ds=DS, k=10, funnel=FUNNEL, gates=(failed,))


def with_metrics(**changed: Measure) -> Night:
    """The run with other values of NDCG@10. `teacher__control` is the difference of two models."""
    new = {(name.replace("__", " - "), "ndcg@10"): measure for name, measure in changed.items()}
    return replace(NIGHT, metrics={**METRICS, **new})

"""The figures of a run as a tracker keeps them."""

from dataclasses import replace

from kdlib.report.content import Measure
from kdlib.report.tracked import figures, name_of
from tests.report.nights import NIGHT


def test_every_part_of_a_run_has_figures():
    """Epochs carry their number. Metrics and gates carry both ends of their intervals; a skipped gate has no value."""
    epochs = [{"epoch": 1, "run": "student", "kl": 0.9}, {"epoch": 2, "run": "student", "kl": 0.5}]
    models = dict(NIGHT.models) | {"student": {**NIGHT.models["student"], "epochs": epochs}}
    found = figures(replace(NIGHT, models=models))
    for one in (
        ("student/epoch/kl", 0.9, 1),
        ("student/epoch/kl", 0.5, 2),
        ("student/validation/ndcg_at_10", 0.16, 0),
        ("student/parameters", 50_080, 0),
        ("student/ndcg_at_10", 0.25, 0),
        ("student/ndcg_at_10/low", 0.22, 0),
        ("student - popularity/ndcg_at_10/high", 0.20, 0),
        ("gate/history_length", 12.5, 0),
        ("gate/history_length/low", 5.0, 0),
        ("input_rows/kept", 900, 0),
        ("users", 80, 0),
        ("search/answered", 75, 0),
        ("search/clicks/ndcg_at_10", 0.44, 0),
    ):
        assert one in found
    names = {name for name, _, _ in found}
    assert "gate/student_over_last_night" not in names
    assert {f"seconds/{stage}" for stage in NIGHT.seconds} <= names
    assert not {name for name in names if name.endswith("/run") or name.endswith("/epoch/epoch")}


def test_names_fit_mlflow_and_figures_are_numbers():
    """Signs that MLflow refuses are replaced, long names are cut, and a value that is not finite is left out."""
    assert name_of("student/ndcg@10/Größe = 5 (%)") == "student/ndcg_at_10/Gr__e _ 5 ___"
    assert len(name_of("x" * 300)) == 250
    nan = replace(NIGHT, metrics={("student", "ndcg@10"): Measure(float("nan"), None, 0.5, 3)})
    assert ("student/ndcg_at_10/high", 0.5, 0) in figures(nan)
    assert "student/ndcg_at_10" not in {name for name, _, _ in figures(nan)}

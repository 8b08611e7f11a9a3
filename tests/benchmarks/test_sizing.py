"""The cost model, and the document with its tables."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.sizing import (
    DOCUMENT,
    LARGEST_ERROR,
    POINTS,
    RESULTS,
    SIZES,
    TABLES,
    Constants,
    _checks,
    _write_serving_files,
    fit,
    fit_all,
    predict,
    size_of,
    terms,
    with_tables,
)

RESULT = json.loads(RESULTS.read_text())


def test_the_document_has_the_measured_tables():
    """SIZING.md has each table once, exactly as made from sizing.json."""
    text = DOCUMENT.read_text()
    assert [text.count(f"<!-- table: {name} -->") for name in TABLES] == [1] * len(TABLES)
    assert with_tables(text, RESULT) == text, "run `python -m tests.benchmarks.sizing --tables`"


def test_a_changed_table_is_noticed():
    """A changed digit in a table is corrected, and text outside the tables stays."""
    text = DOCUMENT.read_text()
    place = text.index("<!-- end -->") - 3
    changed = f"{text[:place]}9{text[place:]} own words"
    assert with_tables(changed, RESULT) == f"{text} own words"


def test_the_model_predicts_what_it_has_not_seen():
    """Every figure of a larger point is predicted within the promised error, and sizing.json holds the same predictions."""
    checks = list(_checks(RESULT["constants"], RESULT["points"]))
    wrong = {(one["figure"], str(one["size"])): one["error"] for one in checks if abs(one["error"]) > LARGEST_ERROR}
    assert not wrong
    assert {one["figure"] for one in checks} == set(RESULT["constants"])
    assert checks == RESULT["checks"]


def test_the_constants_are_those_of_the_points():
    """The constants in sizing.json follow from its points, and these are the points that the command measures."""
    measured = [size_of(point) for point in RESULT["points"]]
    assert measured == POINTS, "run `python -m tests.benchmarks.sizing`"
    fitted = fit_all(RESULT["points"])
    assert fitted.keys() == RESULT["constants"].keys()
    for figure, constants in fitted.items():
        assert constants == pytest.approx(RESULT["constants"][figure], rel=1e-3)


def test_checks_lie_beyond_the_fit():
    """A point for the check has more events, or more users and items, than all fitted points of its kind."""
    for check in (point for point in POINTS if point["use"] == "check"):
        alike = [
            one for one in POINTS if one["use"] == "fit" and all(one.get(n) == check.get(n) for n in ("part", "form"))
        ]
        for name in set(SIZES[check["part"]]) - {"windows"}:
            assert check[name] > max(one[name] for one in alike), check


def test_the_fit_finds_known_constants():
    """Points that follow the model exactly give its constants back."""
    known: Constants = {
        "features.core_seconds": {"start": 30.0, "event": 2e-5},
        "train.seconds": {
            "position": 1e-5,
            "sampled_score": 4e-11,
            "teacher_sampled_score": 3e-11,
            "entry": 2e-8,
            "composed_entry": 3e-8,
            "score": 7e-11,
            "teacher_score": 5e-11,
        },
        "train.peak_bytes": {
            "base": 6e8,
            "position": 3e3,
            "entry": 15.0,
            "shared_entry": 12.0,
            "composed_entry": 9.0,
            "teacher_entry": 6.0,
        },
        "recommend.seconds": {
            "dense_user": 5e-5,
            "dense_user_item": 4e-9,
            "codes_user": 3e-3,
            "codes_user_item": 2e-9,
        },
        "recommend.peak_bytes": {"base": 5e8, "dense_item": 600.0, "codes_item": 500.0},
    }
    points = []
    for point in POINTS:
        size = {name: value for name, value in point.items() if name not in ("part", "use")}
        figures = [figure for figure in known if figure.startswith(f"{point['part']}.")]
        points.append({**point, "figures": {name.split(".")[1]: predict(known, name, **size) for name in figures}})
    found = fit_all(points)
    for figure, constants in known.items():
        assert found[figure] == pytest.approx(constants, rel=2e-3), figure


def test_no_constant_is_negative():
    """A constant that least squares would make negative is left out of the model."""
    found = fit([({"start": 1.0, "event": 1.0}, 1.0), ({"start": 1.0, "event": 2.0}, 0.9)])
    assert found == {"start": pytest.approx(0.945, rel=0.01)}


def test_terms_of_codes():
    """Training with codes composes the item vectors once per step. The recommender looks up scores, at costs of their own."""
    assert terms("train.seconds", {"form": "codes", "items": 10, "windows": 1})["composed_entry"] == 640
    size = {"form": "codes", "items": 10, "users": 5}
    assert terms("recommend.seconds", size) == {"codes_user": 5, "codes_user_item": 50}


@pytest.mark.parametrize("form", ["dense", "codes"])
def test_a_recommender_can_be_measured(form: str, tmp_path: Path) -> None:
    """The files for the actor of both forms are made."""
    _write_serving_files(tmp_path, {"form": form, "users": 3, "items": 300})
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]

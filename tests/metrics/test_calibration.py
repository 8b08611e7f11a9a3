"""Calibration of confidences, and its rows in the table of metrics."""

import itertools

import numpy as np
import pytest

from kdlib.metrics.calibration import calibration_error, tenths
from kdlib.metrics.table import metrics_table


def test_tenths_part_the_rows_by_confidence():
    """Every row is in one part, parts are sorted by confidence and nearly equal in size, and few rows give fewer parts."""
    predicted = np.random.default_rng(0).random(104)
    parts = tenths(predicted)
    assert sorted(np.concatenate(parts)) == list(range(104))
    assert {len(part) for part in parts} == {10, 11}
    assert all(predicted[a].max() <= predicted[b].min() for a, b in itertools.pairwise(parts))
    assert len(tenths(predicted[:3])) == 3


def test_who_is_as_sure_as_right_has_no_error():
    """Outcomes drawn with the predicted probabilities give an error of noise only. Doubled predictions give a large error."""
    generator = np.random.default_rng(1)
    chance = generator.random(200_000)
    found = generator.random(200_000) < chance / 2
    assert calibration_error(chance / 2, found) < 0.005
    assert calibration_error(chance, found) == pytest.approx(0.25, abs=0.005)


def test_without_test_users_there_is_no_error_to_tell():
    """Without test users the error is NaN, not an exception, because a gate checks the number of test users."""
    nobody = np.empty(0)
    assert np.isnan(calibration_error(nobody, nobody))
    none = {"student": np.empty(0, np.int64)}
    table = metrics_table(none, (10,), pairs=[], samples=5, seed=0, confidence={"student": nobody}, confidence_k=10)
    assert set(table["num_users"].to_pylist()) == {0}


def test_the_table_has_both_sides_of_every_tenth():
    """A model with confidences has their mean, the error, and ten pairs of rows. Other models have none of these rows."""
    generator = np.random.default_rng(2)
    ranks = {"student": generator.integers(0, 30, 400), "popularity": generator.integers(0, 30, 400)}
    confidence = {"student": generator.random(400)}
    table = metrics_table(ranks, (10,), pairs=[], samples=50, seed=0, confidence=confidence, confidence_k=10)
    rows = {(row["model"], row["metric"]): row for row in table.to_pylist()}
    hits = ranks["student"] < 10
    assert rows["student", "confidence@10"]["value"] == pytest.approx(confidence["student"].mean())
    error = calibration_error(confidence["student"], hits)
    assert rows["student", "calibration_error@10"]["value"] == pytest.approx(error)
    surest = np.argsort(confidence["student"])[-40:]
    row = rows["student", "hr@10/tenth 10"]
    assert row["value"] == pytest.approx(hits[surest].mean())
    assert row["low"] <= row["value"] <= row["high"]
    assert rows["student", "confidence@10/tenth 10"]["value"] == pytest.approx(confidence["student"][surest].mean())
    assert not [metric for model, metric in rows if model == "popularity" and "tenth" in metric]

"""A function of the user's own as a teacher: its targets at training positions, its judgement, its record."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.data.batches import store_from_tables
from kdlib.data.windows import training_windows
from kdlib.errors import ModelError
from kdlib.losses.distillation import pooled_log_probs
from kdlib.models.files import load_predictor, save_function, save_model
from kdlib.models.function import ScoringFunction
from kdlib.models.sequence import SequenceModel
from kdlib.teachers import sparse
from kdlib.teachers.ensembles import choose_weights, judge_teachers, validation_ndcg
from kdlib.teachers.function import FunctionAtPositions, record_function
from kdlib.teachers.sparse import SampledTargetWriter
from tests.data.test_windows import histories
from tests.own_modules import NEXT, write_modules

ITEMS = 20
IDS = [f"item {number}" for number in range(ITEMS)]


@pytest.fixture
def following() -> pa.Table:
    """Histories that walk through the vocabulary, as the function of `NEXT` expects. The last item is held out."""
    starts = np.arange(12) % ITEMS
    return histories([(((start + np.arange(7)) % ITEMS).tolist(), [0] * 7, 6, 6, None) for start in starts])


def save(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model folder of the function `scores:score` with this source."""
    write_modules(folder, monkeypatch, {"scores.py": source})
    save_function(folder, ScoringFunction("scores:score", IDS, max_length=50), {}, version="v")
    return str(folder)


def save_trained(folder: Path) -> str:
    """The model folder of an untrained sequence model."""
    torch.manual_seed(3)
    model = SequenceModel(num_items=ITEMS, kind="gru", dim=6)
    folder.mkdir()
    save_model(folder, model, model.state_dict(), {})
    return str(folder)


def test_a_training_position_is_scored_from_its_window_up_to_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: pa.Table
) -> None:
    """The function gets each prefix of each chosen window, and no call has more positions than were asked for."""
    source = (
        "calls = []\n\n\ndef score(item_ids):\n"
        "    return lambda histories: calls.append(histories) or [[0.0] * len(item_ids)] * len(histories)\n"
    )
    folder = Path(save(tmp_path, source, monkeypatch))
    model, store = load_predictor(folder)[0], store_from_tables([training_windows(following, max_length=3)])
    assert isinstance(model, ScoringFunction)
    chosen = np.array([5, 0])
    predicted = FunctionAtPositions(model, store, chosen)
    assert [len(predicted.logits(start, start + 4)) for start in (0, 4)] == [4, 1]
    import scores  # type: ignore[import-not-found]

    windows = [store.inputs[store.offsets[window] : store.offsets[window + 1]].tolist() for window in chosen]
    assert [len(window) for window in windows] == [3, 2]
    prefixes = [window[: stop + 1] for window in windows for stop in range(len(window))]
    assert scores.calls == [prefixes[:4], prefixes[4:]]


def test_targets_come_from_a_function_and_a_trained_model_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: pa.Table
) -> None:
    """The shares of many samples are the pooled prediction of both teachers, in chunks of any size."""
    monkeypatch.setattr(sparse, "CHUNK_PROBABILITIES", 3 * ITEMS)
    teachers = [[save(tmp_path, NEXT, monkeypatch)], [save_trained(tmp_path / "gru")]]
    windows = training_windows(following, max_length=4)
    write = SampledTargetWriter(teachers, [0.5, 0.5], temperature=1.0, samples=500, seed=1, threads=1)
    found = store_from_tables([write(windows)], teachers=1)
    assert found.hidden is not None
    draws = torch.from_numpy(found.hidden).view(torch.int32).long()
    shares = torch.zeros(len(draws), ITEMS).scatter_add_(1, draws, torch.full(draws.shape, 1 / 500))
    own, trained = (load_predictor(Path(folder))[0] for [folder] in teachers)
    assert isinstance(own, ScoringFunction)
    assert isinstance(trained, SequenceModel)
    with torch.no_grad():
        states = trained(torch.from_numpy(found.inputs[:4].astype(np.int64))[None], torch.zeros(1, 4, 3).char())[0]
        logits = [own.logits([found.inputs[: stop + 1].tolist() for stop in range(4)]), states @ trained.head()[0].T]
    expected = pooled_log_probs(logits, [0.5, 0.5]).exp()
    assert (shares[:4] - expected).abs().max() < 1 / 500 + 1e-5


def test_a_good_function_gets_the_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: pa.Table) -> None:
    """The function that knows the next item has the better log-probability, nearly all weight, and an NDCG@10 of 1."""
    teachers = [[save(tmp_path, NEXT, monkeypatch)], [save_trained(tmp_path / "gru")]]
    trained_NR, held_out_NR = judge_teachers(teachers, following, max_length=50, threads=1)
    for found in (trained_NR, held_out_NR):
        assert found.shape == (2, 12)
        np.testing.assert_allclose(found[0], -np.log(1 + sum(np.exp(-np.arange(1, ITEMS)))), rtol=1e-5)
        assert (found[0] > found[1]).all()
    weights = choose_weights(teachers, following, threads=1)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] >= 0.5
    together = list(zip([folder for [folder] in teachers], weights, strict=True))
    assert validation_ndcg(together, following, threads=1) == pytest.approx(1.0)


def record(folder: Path, following: pa.Table) -> dict:
    """`model.json` of `record_function` for these histories."""
    pq.write_table(following, folder / "histories.parquet")
    record_function(
        "scores:score",
        IDS,
        [str(folder / "histories.parquet")],
        str(folder),
        {"name": "mine"},
        version="v",
        max_length=5,
        max_validation_users=10,
        threads=1,
    )
    return json.loads((folder / "model.json").read_text())


def test_the_record_has_the_validation_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: pa.Table
) -> None:
    """A function that knows the next item has a validation accuracy of 1, no seed and no epochs."""
    write_modules(tmp_path, monkeypatch, {"scores.py": NEXT})
    facts = record(tmp_path, following)
    assert facts["validation"] == {"epoch": 0, "accuracy@1": 1.0, "recall@10": 1.0, "ndcg@10": 1.0}
    assert (facts["name"], facts["seed"], facts["epochs"], facts["num_items"]) == ("mine", None, [], ITEMS)
    assert facts["options"]["max_length"] == 5


@pytest.mark.parametrize(
    "scores",
    [
        "np.random.default_rng().normal(size=(len(histories), len(item_ids)))",
        "np.arange(len(item_ids)) * np.array([[float(len(histories))]] * len(histories))",
    ],
)
def test_scores_that_change_from_call_to_call_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: pa.Table, scores: str
) -> None:
    """Random scores and scores that depend on the other histories of a call are an error that says what to do."""
    source = f"import numpy as np\n\n\ndef score(item_ids):\n    return lambda histories: {scores}\n"
    write_modules(tmp_path, monkeypatch, {"scores.py": source})
    with pytest.raises(ModelError, match=r"scores:score gives a history other scores alone .*model.eval\(\)"):
        record(tmp_path, following)
    assert not (tmp_path / "model.json").exists()


def test_without_validation_users_nothing_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: pa.Table
) -> None:
    """Where no user has a validation item, all metrics are 0, as for other teachers."""
    write_modules(tmp_path, monkeypatch, {"scores.py": NEXT})
    nobody = following.set_column(
        following.column_names.index("validation_position"),
        "validation_position",
        pa.nulls(len(following), following["validation_position"].type),
    )
    assert record(tmp_path, nobody)["validation"]["ndcg@10"] == 0.0

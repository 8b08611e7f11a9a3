"""What each model says, against the published lists and against full sorts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F

from kdlib.config.load import load_config
from kdlib.errors import ModelError
from kdlib.explore import models
from kdlib.explore.data import read_list
from kdlib.explore.run import LISTS, Run
from kdlib.explore.shop import Shop
from kdlib.models.files import load_model
from tests.explore.made_shop import ITEM_IDS, NUM_USERS, UNAVAILABLE, K, history, user_id


def _best(run: Run, number: int, *names: str, k: int = K) -> models.Scored:
    steps = models.read_history(run.folder("histories"), user_id(number))
    found = models.best_items(
        [run.folder(f"models/{name}") for name in names], run.folder("item_vocabulary"), steps, k=k
    )
    assert isinstance(found, list)
    return found


def test_the_student_s_list_is_the_published_one(run: Run) -> None:
    """For every user with a history, items and scores are the same as in batch inference."""
    for number in range(NUM_USERS):
        published = read_list(run.folder(LISTS), user_id(number))
        assert published is not None
        if published["source"] == "model":
            items, scores = zip(*_best(run, number, "student"), strict=True)
            assert list(items) == published["item_ids"]
            np.testing.assert_allclose(scores, published["scores"], rtol=1e-5)


def test_a_list_holds_neither_the_history_nor_what_is_not_sold(run: Run) -> None:
    """A list of all items leaves out exactly the history and the unavailable items, for vectors and for rules."""
    seen = {ITEM_IDS[index] for index in history(5)["item_indices"]}
    assert ITEM_IDS[UNAVAILABLE] not in seen
    for name in ("teacher", "rules"):
        found = {item for item, _ in _best(run, 5, name, k=len(ITEM_IDS))}
        assert found == set(ITEM_IDS) - seen - {ITEM_IDS[UNAVAILABLE]}


def test_a_history_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """Its table lacks the values of the users."""
    rows = [{name: value for name, value in history(number).items() if name != "user_values"} for number in (4, 5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-00000.parquet")
    assert models.read_history(tmp_path, user_id(5))["item_indices"].to_pylist() == [history(5)["item_indices"]]


def test_rules_predict_what_follows(run: Run) -> None:
    """After item 7 the rules score items 8 and 9 with the weights 2 and 1 and a prior of 1/60 each."""
    (first, one), (second, two) = _best(run, 1, "rules")[:2]
    assert (first, second) == ("item008", "item009")
    assert one - two == pytest.approx(np.log((2 + 1 / 60) / (1 + 1 / 60)), rel=1e-5)


def test_folds_of_a_teacher_are_averaged(run: Run) -> None:
    """The scores of a cross-fitted teacher are the mean of its models' scores."""
    both, ones = (
        dict(_best(run, 5, "teacher", "control", k=60)),
        [dict(_best(run, 5, name, k=60)) for name in ("teacher", "control")],
    )
    for item, score in both.items():
        assert score == pytest.approx((ones[0][item] + ones[1][item]) / 2, abs=1e-5)


def test_a_history_that_no_model_knows_gets_a_sentence(run: Run) -> None:
    """A user without interactions has no scores."""
    steps = models.read_history(run.folder("histories"), user_id(8))
    found = models.best_items([run.folder("models/student")], run.folder("item_vocabulary"), steps, k=K)
    assert found == "The model knows no item of this history, so it has no scores."


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_neighbours_are_the_nearest_by_cosine(run: Run, name: str) -> None:
    """The neighbours are the same as in a full sort, without the item itself."""
    vectors = load_model(run.folder(f"models/{name}"))[0].item_vectors()
    cosine = F.cosine_similarity(vectors, vectors[4][None], dim=1)
    order = [index for index in torch.argsort(-cosine).tolist() if index != 4][:K]
    found = models.neighbours(run.folder(f"models/{name}"), run.folder("item_vocabulary"), 4, k=K)
    assert isinstance(found, list)
    assert [item for item, _ in found] == [ITEM_IDS[index] for index in order]
    np.testing.assert_allclose([score for _, score in found], cosine[order], rtol=1e-5)


def test_where_there_are_no_neighbours_it_is_said(run: Run) -> None:
    """Rules, and a model that is older than the item, give a sentence in place of neighbours."""
    vocabulary = run.folder("item_vocabulary")
    assert "counts rules. It has no item vectors" in models.neighbours(run.folder("models/rules"), vocabulary, 4, k=K)
    assert "The item is new" in models.neighbours(run.folder("models/student"), vocabulary, 60, k=K)


def test_a_model_that_is_damaged_costs_only_its_own_list(shop: Shop, run: Run) -> None:
    """The error of a damaged model replaces its list, and the others answer, student first and control last."""

    def ask(folders: list[Path]) -> models.Scored | str:
        if "teacher" in str(folders[0]):
            raise ModelError("the model is damaged")
        return [("item000", 1.0)]

    found = models.ask_models(shop, run, ask)
    assert [one.model for one in found] == ["student", "teacher", "rules", "student without teacher"]
    assert [one.note for one in found] == ["", "the model is damaged", "", ""]
    assert [len(one.items) for one in found] == [1, 0, 1, 1]


def test_the_student_of_the_pages_made_the_lists(shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose lists come from a refitted student shows the lists of that student."""
    assert shop.models(run)["student"] == [run.folder("models/student")]
    versions = {**run.versions, "models/refit": "v"}
    assert shop.models(replace(run, versions=versions))["student"] == [run.folder("models/student")]
    made = replace(run.manifest("recommendations"), inputs={"models/refit": "v"})
    monkeypatch.setattr(Run, "manifest", lambda *_: made)
    refitted = replace(run, versions=versions)
    assert shop.models(refitted)["student"] == [refitted.folder("models/refit")]


def test_a_vocabulary_of_another_run_is_refused(tmp_path: Path, run: Run) -> None:
    """A model with another vocabulary than its run's is an error."""
    from tests.explore.made_shop import put

    row = {"item_id": "x", "available": True, "in_stock": True, "first_seen": run.ds}
    put(tmp_path, "item_vocabulary", run.ds, [row | {"item_index": n} for n in range(70)])
    steps = models.read_history(run.folder("histories"), user_id(5))
    with pytest.raises(ModelError, match="was trained on vocabulary v1"):
        models.best_items(
            [run.folder("models/student")], (tmp_path / f"item_vocabulary/ds={run.ds}").resolve(), steps, k=K
        )


def test_the_config_names_the_models(config: Path, shop: Shop) -> None:
    """The pages ask the teachers of the run config for lists of the configured length."""
    loaded = load_config(str(config))
    assert list(shop.teachers) == [teacher.name for teacher in loaded.teachers]
    assert shop.k == loaded.recommend.k

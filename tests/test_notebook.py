"""The calls for a notebook, on a run that is published by hand."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from kdlib import notebook
from kdlib.errors import ConfigError, InputError, ModelError
from kdlib.inference.ranks import ranks_of_models
from kdlib.inference.recommender import Recommender
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.privacy.pseudonyms import pseudonym
from kdlib.release import promotions
from kdlib.store import partitions, tables

DS, NEXT = "2026-11-22", "2026-11-23"
ITEMS = [f"item{index:02}" for index in range(40)]
KNOWN = 38
"""The model knows all items but the last two, which are new."""
USERS = {"ada": [3, 5, 7, 9], "bob": [1, 2, 3, 38], "cy": [], "dee": [4, 6, 4]}
"""User → history. The last item is the test item. Cy has no history, and Dee has had her test item before."""


def tiny_model(seed: int) -> SequenceModel:
    torch.manual_seed(seed)
    model = SequenceModel(num_items=KNOWN, kind="gru", dim=8, session_flag=True, inputs=["event_type"])
    for parameter in model.parameters():  # initial weights are too small: all scores would be nearly equal
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def put(root: Path, ds: str, name: str, content: pa.Table | SequenceModel) -> str:
    """Publish a table or a model. Returns its version."""
    staging = partitions.new_staging(root, name, ds)
    if isinstance(content, pa.Table):
        pq.write_table(content, staging / "part.parquet")
    else:
        facts = {"vocabulary_hash": vocabulary_hash(ITEMS[:KNOWN]), "vocabulary_version": "v1"}
        save_model(staging, content, content.state_dict(), facts)
    return partitions.publish(staging, root, name, ds, fingerprint=f"{name} {ds}").version


def histories() -> pa.Table:
    lists = list(USERS.values())
    return pa.table(
        {
            "user_id": list(USERS),
            "item_indices": lists,
            "event_types": [[place % 4 for place in range(len(one))] for one in lists],
            "event_times": [[86_400_000_000 * place for place in range(len(one))] for one in lists],
            "session_numbers": [list(range(len(one))) for one in lists],
            "num_train": [len(one) for one in lists],
            "validation_position": [None] * len(lists),
            "test_position": [len(one) - 1 if one else None for one in lists],
            "user_values": [[]] * len(lists),
        },
        schema=tables.HISTORIES.schema,
    )


def put_run(root: Path, ds: str, *, seed: int = 1, users: pa.Table | None = None) -> None:
    """Publish a run with a model, and promote it. Item 30 is not available, and the last title is unknown."""
    users = histories() if users is None else users
    rows = reversed(list(enumerate(ITEMS)))  # the rows of a table need not be in index order
    vocabulary = [
        {
            "item_index": n,
            "item_id": one,
            "title": f"title {n}",
            "available": n != 30,
            "in_stock": True,
            "first_seen": ds,
        }
        for n, one in rows
    ]
    vocabulary[0]["title"] = None
    counts = [
        {
            "item_index": n,
            "num_interactions": n,
            "num_users": n,
            "num_purchases": 0,
            "num_train": n,
            "num_in_windows": n,
        }
        for n in reversed(range(len(ITEMS)))
    ]
    made = {
        "item_vocabulary": pa.Table.from_pylist(vocabulary, tables.ITEM_VOCABULARY.schema),
        "item_statistics": pa.Table.from_pylist(counts, tables.ITEM_STATISTICS.schema),
        "histories": users,
        "models/student": tiny_model(seed),
        "sessions": pa.table({"session_id": ["1", "2"]}),
    }
    versions = {name: put(root, ds, name, content) for name, content in made.items()}
    parts = ("models/student", "item_vocabulary", "item_statistics")
    folders = [str(partitions.current(root, name, ds)) for name in parts]
    recommender = Recommender(
        *folders, k=4, because=1, item_block=64, generated_at=datetime(2026, 11, 23, tzinfo=UTC), threads=1
    )
    versions["recommendations"] = put(root, ds, "recommendations", recommender(users))
    del versions["sessions"]  # a promotion does not record them
    promotions.promote(root, ds, versions)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run config with one promoted run."""
    path = tmp_path / "run.yaml"
    settings = {"bootstrap_samples": 20, "k": [1, 5]}
    document = {
        "name": "shop",
        "output_dir": str(tmp_path / "out"),
        "input": {"simulate": {}},
        "evaluation": settings,
        "training": {"max_length": 2},
    }
    path.write_text(yaml.safe_dump(document))
    put_run(tmp_path / "out", DS)
    return path


def test_a_run_keeps_its_versions(config: Path, tmp_path: Path) -> None:
    """A loaded run reads its own tables after a newer run is in use, and a date names an earlier run."""
    run = notebook.load_run(config)
    before = notebook.read_table(run, "recommendations")
    put_run(tmp_path / "out", NEXT, seed=2)
    assert notebook.read_table(run, "recommendations").equals(before)
    newer = notebook.load_run(config)
    assert (run.day, newer.day) == (DS, NEXT)
    assert not notebook.read_table(newer, "recommendations").equals(before)
    assert notebook.load_run(config, ds=DS).versions == run.versions


def test_the_run_in_use_is_the_promoted_version(config: Path, tmp_path: Path) -> None:
    """A table that is made again but not promoted is read only with the date."""
    put(tmp_path / "out", DS, "item_statistics", pa.table({"item_index": [0]}))
    assert len(notebook.read_table(notebook.load_run(config), "item_statistics")) == len(ITEMS)
    assert len(notebook.read_table(notebook.load_run(config, ds=DS), "item_statistics")) == 1


def test_tables_have_their_rows(config: Path) -> None:
    """A run has the tables that its promotion records and the others of the date, each with its number of rows."""
    run = notebook.load_run(config)
    rows = {"histories": 4, "item_statistics": 40, "item_vocabulary": 40, "recommendations": 4, "sessions": 2}
    assert notebook.tables(run) == rows
    assert notebook.read_table(run, "sessions", columns=["session_id"]).to_pydict() == {"session_id": ["1", "2"]}


def test_a_history_has_titles(config: Path) -> None:
    """A history has time, type, id and title of each event, oldest first."""
    rows = notebook.history(notebook.load_run(config), "bob").to_pylist()
    assert [(row["item_id"], row["title"], row["event_type"]) for row in rows] == [
        ("item01", "title 1", "view"),
        ("item02", "title 2", "favourite"),
        ("item03", "title 3", "cart"),
        ("item38", "title 38", "purchase"),
    ]
    assert rows[2]["event_time"] == datetime(1970, 1, 3, tzinfo=UTC)


def test_a_list_is_the_published_one(config: Path) -> None:
    """A user's list has the published items with ranks and reasons; the list of popular items has no reasons."""
    run = notebook.load_run(config)
    published = notebook.read_table(run, "recommendations").to_pylist()
    mine = notebook.recommend(run, "ada").to_pydict()
    assert mine["rank"] == [1, 2, 3, 4]
    assert mine["item_id"] == published[0]["item_ids"]
    assert mine["score"] == published[0]["scores"]
    assert mine["because"] == published[0]["because_item_ids"]
    assert mine["title"] == [f"title {int(item[4:])}" for item in mine["item_id"]]
    assert notebook.recommend(run, "cy")["because"].null_count == 4


def test_the_student_makes_the_published_lists(config: Path) -> None:
    """From rows of the table `histories` the student makes the lists that the run published."""
    run = notebook.load_run(config)
    found = notebook.Student(run).recommend(notebook.read_table(run, "histories"), k=4)
    for row in notebook.read_table(run, "recommendations").to_pylist():
        mine = found.filter(np.array(found["user_id"].to_pylist()) == row["user_id"]).to_pydict()
        assert mine["item_id"] == row["item_ids"]
        assert mine["rank"] == [1, 2, 3, 4]
        assert mine["score"] == pytest.approx(row["scores"], abs=1e-5)
        assert set(mine["source"]) == {row["source"]}
    assert set(found["source"].to_pylist()) == {"model", "popular"}


def test_the_student_takes_item_ids(config: Path) -> None:
    """Each list of item ids gets k available items that are not in the list, as a history of one session."""
    student = notebook.Student(notebook.load_run(config))
    found = student.recommend([["item03", "item05"], [], ["item39"]], k=39)
    one, nothing, new = (found.filter(np.array(found["user_id"].to_pylist()) == number) for number in "012")
    context = torch.tensor([[[0, 0, 0], [1, 0, 1]]], dtype=torch.int8)
    hidden_W = tiny_model(1)(torch.tensor([[3, 5]]), context)[0, -1]
    logits_V = tiny_model(1).head()[0] @ hidden_W
    best = [ITEMS[index] for index in logits_V.argsort(descending=True) if index not in (3, 5, 30)]
    assert one["item_id"].to_pylist() == best
    assert one["score"].to_pylist() == pytest.approx([logits_V[ITEMS.index(item)].item() for item in best], abs=1e-5)
    popular = [item for item in reversed(ITEMS[:KNOWN]) if item != "item30"]
    assert nothing["item_id"].to_pylist() == new["item_id"].to_pylist() == popular
    assert set(nothing["source"].to_pylist()) == {"popular"}
    assert len(student.recommend([])) == 0


def test_similar_items_are_nearest_in_direction(config: Path) -> None:
    """Similar items come by the cosine of their vectors, without the item itself and without unavailable ones."""
    found = notebook.Student(notebook.load_run(config)).similar("item04", k=36).to_pydict()
    vectors_VW = tiny_model(1).head()[0]
    cosines_V = torch.cosine_similarity(vectors_VW[4], vectors_VW, dim=1)
    best = [ITEMS[index] for index in cosines_V.argsort(descending=True) if index not in (4, 30)]
    assert found["item_id"] == best
    assert found["score"] == pytest.approx([cosines_V[ITEMS.index(item)].item() for item in best], abs=1e-5)


def test_scores_of_ones_own_are_measured(config: Path) -> None:
    """A scorer gets the last `training.max_length` items, and only test items that are new to the user count."""
    run, asked = notebook.load_run(config), []

    def mine(lists: list[list[int]]) -> np.ndarray:
        asked.extend(lists)
        scores = np.zeros((len(lists), len(ITEMS)))
        for row, items in enumerate(lists):
            scores[row, 9] = 2 if items == [5, 7] else 0
            scores[row, [0, 10, 38]] = [-np.inf, 3, 2]  # Bob's 38 is second
        return scores

    found = notebook.evaluate(run, {"mine": mine, "zeros": lambda lists: np.zeros((len(lists), len(ITEMS)))})
    values = {(row["model"], row["metric"]): row["value"] for row in found.to_pylist()}
    assert sorted(asked) == [[2, 3], [5, 7]]
    assert {row["num_users"] for row in found.to_pylist()} == {2}
    assert values["mine", "accuracy@1"] == 0
    assert values["mine", "recall@5"] == 1
    assert values["mine", "mrr@5"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    # of equal scores the smaller index comes first: Ada's item 9 is at rank 6, behind 0, 1, 2, 4, 6 and 8
    assert values["zeros", "ndcg@5"] == 0
    assert values["mine - zeros", "recall@5"] == 1


def test_the_student_is_measured_as_in_the_run(config: Path) -> None:
    """The student's metrics come from its ranks of the test items; given histories choose the users."""
    run = notebook.load_run(config)
    found = notebook.evaluate(run, {"student": notebook.Student(run)})
    rows = notebook.evaluation_rows(histories(), position_column="test_position")
    ranks = ranks_of_models([tiny_model(1)], [1.0], rows, device=torch.device("cpu"), num_items=len(ITEMS)).ranks
    values = {row["metric"]: row["value"] for row in found.to_pylist()}
    assert values["mrr@5"] == pytest.approx(np.where(ranks < 5, 1 / (ranks + 1), 0).mean())
    alone = notebook.evaluate(run, {"student": notebook.Student(run)}, histories=histories().slice(0, 1))
    assert {row["num_users"] for row in alone.to_pylist()} == {1}


def test_a_refitted_student_makes_lists_and_is_not_measured(config: Path, tmp_path: Path) -> None:
    """The student that made the lists is the default. One that has seen the test items cannot be evaluated."""
    put(tmp_path / "out", DS, "models/refit", tiny_model(2))
    run = notebook.load_run(config, ds=DS)
    assert notebook.Student(run).model == "student"
    lists = partitions.new_staging(tmp_path / "out", "recommendations", DS)
    pq.write_table(notebook.read_table(run, "recommendations"), lists / "part.parquet")
    inputs = {"models/refit": run.versions["models/refit"]}
    partitions.publish(lists, tmp_path / "out", "recommendations", DS, fingerprint="refit", inputs=inputs)
    run = notebook.load_run(config, ds=DS)
    student = notebook.Student(run)
    assert student.model == "refit"
    assert torch.equal(student.recommender.model.head()[0], tiny_model(2).head()[0])
    with pytest.raises(InputError, match=r"mine is the student that .* all days.* Give Student\(run, 'student'\)"):
        notebook.evaluate(run, {"mine": student})
    assert notebook.evaluate(run, {"mine": notebook.Student(run, "student")}).num_rows


def test_pseudonyms_are_made_of_the_shops_ids(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pseudonym key, calls take the shop's own user ids, and an error names no pseudonym."""
    monkeypatch.setenv("SHOP_KEY", "0123456789abcdef")
    config.write_text(config.read_text() + "privacy: {key_environment: SHOP_KEY}\n")
    users = histories().filter([True, False, False, False])
    named = pa.array([pseudonym(b"0123456789abcdef", "ada")])
    put_run(tmp_path / "out", NEXT, users=users.set_column(0, users.schema.field("user_id"), named))
    run = notebook.load_run(config)
    assert notebook.history(run, "ada")["item_id"].to_pylist() == [ITEMS[index] for index in USERS["ada"]]
    with pytest.raises(InputError, match=r"no user 'bob' in histories .* Give the shop's own id, not a pseudonym"):
        notebook.history(run, "bob")


def ask(call: str, config: Path) -> object:
    """What an expression gives, in which `run` and `student` are the run in use and its student."""
    run = notebook.load_run(config)
    return eval(call, vars(notebook) | {"run": run, "student": notebook.Student(run), "config": config, "np": np})


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        ("load_run(config, ds='2026-11-01')", InputError, "no tables of 2026-11-01 in .*out.*--ds 2026-11-01"),
        ("load_run(config, ds='yesterday')", ConfigError, "--ds is wrong"),
        (
            "load_run(config, overrides=['output_dir=/none'])",
            InputError,
            "no run is in use in /none. Run `distilrec nig",
        ),
        ("read_table(run, 'lists')", InputError, "has no 'lists'. It has histories, .*recommendations"),
        (
            "recommend(run, 'eve')",
            InputError,
            "no user 'eve' in recommendations of the run of .* It has ada, bob, cy and",
        ),
        ("student.recommend([['item01', 'x']])", InputError, r"no item 'x' in .* read_table\(run, 'item_vocabulary'\)"),
        ("student.recommend(['item01'])", InputError, r"lists of item ids, one a user.* Found \['item01'\]"),
        ("student.similar('item39')", InputError, "'item39' is newer than the model. Load a later run"),
        ("Student(run, 'teacher')", InputError, "has no 'models/teacher'. It has .*models/student"),
        ("evaluate(run, {'mine': lambda lists: np.ones((1, 2))})", InputError, r"mine .* \(2, 40\) .* \(1, 2\) with 0"),
        ("evaluate(run, {'mine': lambda x: np.full((2, 40), np.nan)})", InputError, "without NaN .* with 80 of them"),
        (
            "evaluate(run, {}, histories=read_table(run, 'histories')[2:])",
            InputError,
            "no user .* Give other histories",
        ),
    ],
)
def test_errors_say_what_to_do(call: str, error: type[Exception], text: str, config: Path) -> None:
    """Each error names what is wrong and what to do."""
    with pytest.raises(error, match=text):
        ask(call, config)


def test_removed_files_are_an_error(config: Path) -> None:
    """The error says that a run's files are gone, or that a model is damaged."""
    run = notebook.load_run(config)
    run.folder("models/student").joinpath("model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is damaged"):
        notebook.Student(run)
    run.folder("histories").rename(config.parent / "elsewhere")
    with pytest.raises(InputError, match=rf"the files of histories of the run of {DS} .* were removed"):
        notebook.history(run, "ada")


def test_no_engine_starts() -> None:
    """The calls need neither Spark nor Ray nor DeepSpeed."""
    program = "import sys, kdlib.notebook; print(*{'pyspark', 'ray', 'deepspeed'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")

"""The inputs that a model reads with each item, from the histories to the loss."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.config.models import ModelConfig, TrainConfig, TrainingConfig
from kdlib.data.batches import batch_of, store_from_tables
from kdlib.data.windows import training_windows
from kdlib.models.sequence import SequenceModel
from kdlib.store.tables import HISTORIES
from kdlib.training.module import NextItemTraining
from kdlib.training.specs import StudentsSpec, TrainingRun
from kdlib.training.student_setup import training_module
from tests.data.test_windows import histories, with_values

GAPS = np.array([1, 300, 90_000, 9_000_000])


@pytest.mark.parametrize("column", ["event_type", "time_gap"])
def test_what_only_an_input_tells_is_learnt_through_it(column: str) -> None:
    """Here only the type of the last event, or only the gap before it, determines the next of four items. A model that reads
    that column predicts the item for other users; a model without it cannot."""
    generator = np.random.default_rng(0)
    told = generator.integers(0, 4, (60, 7))
    items = np.concatenate([generator.integers(0, 4, (60, 1)), told[:, :-1]], axis=1)
    table = histories([(row, [0] * 7, 7, None, None) for row in items.tolist()])
    types = told if column == "event_type" else np.zeros_like(told)
    seconds = np.cumsum(GAPS[told], axis=1) if column == "time_gap" else np.zeros_like(told)
    for name, values in (("event_types", types), ("event_times", 1_000_000 * seconds)):
        table = table.set_column(table.column_names.index(name), name, [values.tolist()])
    table = table.cast(HISTORIES.schema)
    store = store_from_tables([training_windows(table, max_length=7)])
    batch, held_out = batch_of(store, np.arange(40)), batch_of(store, np.arange(40, 60))
    first = held_out.positions_T % held_out.items_BL.shape[1] == 0  # no gap before it
    correct = {}
    for inputs in ((column,), ()):
        torch.manual_seed(1)
        module = NextItemTraining(SequenceModel(num_items=4, kind="gru", dim=8, inputs=inputs, max_length=7))
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.03)
        for _ in range(60):
            optimizer.zero_grad()
            (module(batch).total / len(batch.targets_T)).backward()
            optimizer.step()
        hidden_TW = module.student(held_out.items_BL, held_out.context_BLC).flatten(0, 1)[held_out.positions_T]
        best_T = (hidden_TW @ module.student.head()[0].T).argmax(1)
        correct[inputs] = (best_T == held_out.targets_T)[~first].float().mean().item()
    assert correct[(column,)] > 0.95
    assert correct[()] < 0.5


def test_what_only_the_country_tells_is_learnt_through_it() -> None:
    """Users of two countries with the same histories want different items next. The student that reads the country predicts
    them for other users; a student without it is right for half of the users, as is one that does not know the country."""
    walks = np.random.default_rng(0).integers(0, 4, (120, 3)).repeat(2, axis=0)
    country = np.tile([1, 2], 120)
    wanted = np.where(country == 1, 4 + walks[:, -1], 8 + walks[:, -1])
    table = histories(
        [([*walk, item], [0] * 4, 4, None, None) for walk, item in zip(walks.tolist(), wanted, strict=True)]
    )
    table = with_values(table, [[0, one] for one in country.tolist()])
    store = store_from_tables([training_windows(table, max_length=3)])
    batch, held_out = batch_of(store, np.arange(160)), batch_of(store, np.arange(160, 240))
    unknown = held_out.context_BLC[..., :3]
    correct = {}
    for user_columns in ({"country": 1}, {}):
        torch.manual_seed(1)
        model = SequenceModel(num_items=12, kind="gru", dim=8, user_columns=user_columns, max_length=3)
        module = NextItemTraining(model)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.03)
        for _ in range(120):
            optimizer.zero_grad()
            (module(batch).total / len(batch.targets_T)).backward()
            optimizer.step()
        for name, context_BLC in (("known", held_out.context_BLC), ("unknown", unknown)):
            best_B = (model(held_out.items_BL, context_BLC)[:, -1] @ model.head()[0].T).argmax(1)
            found_B = best_B == held_out.targets_T.view(80, 3)[:, -1]
            correct[(*user_columns, name)] = found_B.float().mean().item()
    assert correct["country", "known"] > 0.95
    assert all(correct[one] <= 0.5 for one in (("country", "unknown"), ("known",), ("unknown",)))


def test_each_model_of_a_run_has_its_own_columns(tmp_path: Path) -> None:
    """Student and joint teacher read the features of the users that their settings name."""
    counts = {"item_index": range(4), "num_train": [9] * 4, "num_in_windows": [9] * 4}
    pq.write_table(pa.table({name: list(values) for name, values in counts.items()}), tmp_path / "counts.parquet")
    shape = ModelConfig(kind="gru", dim=8)
    run = TrainingRun(
        "student",
        str(tmp_path),
        shape,
        TrainConfig(),
        seed=1,
        statistics=str(tmp_path),
        user_columns={"age": 2},
        teacher=shape,
        teacher_user_columns={"country": 0, "age": 2},
    )
    spec = StudentsSpec((run,), states_a_position=0, histories=[], num_items=4, metadata={})
    module = training_module(run, spec, TrainingConfig(), torch.device("cpu"))
    assert module.teacher is not None
    columns = [model.options["user_columns"] for model in (module.student, module.teacher)]
    assert columns == [{"age": 2}, {"country": 0, "age": 2}]

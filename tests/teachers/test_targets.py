"""The cached-teacher store gives back the teacher's predictions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.data.batches import shuffled_batches, store_from_tables
from kdlib.data.shards import history_shards
from kdlib.data.windows import training_windows
from kdlib.models.files import load_model, save_model
from kdlib.models.sequence import SequenceModel
from kdlib.teachers import targets
from kdlib.teachers.shard_teacher import ShardTeacher
from kdlib.teachers.targets import TargetWriter, states_at
from kdlib.training.module import CachedTeachers
from tests.data.test_windows import histories


def test_cached_teachers_equal_online_teachers(tmp_path: Path) -> None:
    """Logits rebuilt from the store are the teachers' own up to rounding, for W + 4 bytes per position and teacher."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    table = histories([(generator.integers(0, 40, 12).tolist(), [0] * 12, 12, None, None) for _ in range(9)])
    windows = training_windows(table, max_length=5)
    folders = []
    for number, kind in enumerate(("gru", "transformer")):
        model = SequenceModel(
            num_items=40, kind=kind, dim=8 + 8 * number, max_length=5, session_flag=True, inputs=["time_gap"]
        )
        folders.append(tmp_path / kind)
        folders[-1].mkdir()
        save_model(folders[-1], model, model.state_dict(), {})
    cached = TargetWriter([str(folder) for folder in folders], threads=1, batch_size=4)(windows)
    bytes_a_position = (
        cached["hidden"].combine_chunks().buffers()[2].size + cached["scales"].combine_chunks().values.nbytes
    ) / 99
    assert bytes_a_position == 8 + 16 + 2 * 4
    store = store_from_tables([cached.slice(0, 4), cached.slice(4)], teachers=2)
    models = [load_model(folder)[0] for folder in folders]
    heads = CachedTeachers([model.head() for model in models], [1.0, 3.0])
    positions = 0
    for batch in shuffled_batches(store, batch_size=6, seed=3):
        states, scored = [states_at(model, batch) for model in models], heads.scored(batch)
        together = torch.cat([0.25 * states[0], 0.75 * states[1]], 1)
        torch.testing.assert_close(scored.hidden_TW, together, rtol=0, atol=float(together.abs().max()) / 200)
        logits = [state @ model.head()[0].T for state, model in zip(states, models, strict=True)]
        torch.testing.assert_close(scored.logits(), 0.25 * logits[0] + 0.75 * logits[1], rtol=0, atol=2e-2)
        positions += len(batch.targets_T)
    assert positions == 99


def test_who_works_on_a_shard_and_when_changes_nothing(tmp_path: Path) -> None:
    """Actors that take the shards in different orders write the same files, in the order of the histories."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    rows = [(generator.integers(0, 40, n).tolist(), [0] * n, n, None, None) for n in generator.integers(0, 12, 50)]
    table = histories(rows)
    pq.write_table(table, tmp_path / "histories.parquet", row_group_size=30)
    model = SequenceModel(num_items=40, kind="gru", dim=8, max_length=5)
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", model, model.state_dict(), {})
    shards = [vars(s) for s in history_shards([str(tmp_path / "histories.parquet")], num_rows=16)]
    files = []
    for name, order in (("one", [shards]), ("two", [shards[2:], shards[:2], shards[1:2]])):
        (tmp_path / name).mkdir()
        for mine in order:
            actor = ShardTeacher(
                str(tmp_path / name), 8, 5, TargetWriter, {"folders": [str(tmp_path / "model")], "threads": 1}
            )
            done = actor(pa.Table.from_pylist(mine))
            assert done["number"].to_pylist() == [shard["number"] for shard in mine]
        files.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})
    assert files[0] == files[1]
    assert len(files[0]) == 4
    written = pq.read_table(tmp_path / "one")
    windows = training_windows(table, max_length=5)
    assert written.select(windows.column_names).equals(windows.combine_chunks())


def test_more_bytes_than_an_array_holds_go_into_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is at most `MOST_BYTES` or one window, and all chunks together hold the same values as one."""
    windows = training_windows(histories([([1, 2, 3, 4], [0] * 4, 4, None, None)] * 5), max_length=3)
    states = np.arange(15 * 4, dtype=np.int8).reshape(15, 4)
    made = []
    for most in (1 << 30, 30, 5):
        monkeypatch.setattr(targets, "MOST_BYTES", most)
        table = targets.targets_table(windows, states, np.ones((15, 1), np.float32), np.full(5, 3))
        made.append((table["hidden"].num_chunks, table["hidden"].to_pylist()))
    assert [chunks for chunks, _ in made] == [1, 3, 5]
    assert made[0][1] == made[1][1] == made[2][1] == [states[row : row + 3].tobytes() for row in range(0, 15, 3)]

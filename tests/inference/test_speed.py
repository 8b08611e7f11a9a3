"""Users per second of several models."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdlib.data.windows import evaluation_rows
from kdlib.inference import speed
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from tests.data.test_windows import histories


@pytest.mark.parametrize(("users", "timed"), [(1_000, 20), (5, 5)])
def test_every_model_has_a_speed_and_threads_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: int, timed: int
) -> None:
    """The speed is the median of three rounds over at most the users that exist, and PyTorch's threads are restored."""
    for name in ("small", "untied"):
        (tmp_path / name).mkdir()
        model = SequenceModel(num_items=30, kind="gru", dim=4, tied=name == "small")
        save_model(tmp_path / name, model, model.state_dict(), {})
    table = histories([([user, user + 1, user + 2], [0, 0, 0], 2, None, 2) for user in range(20)])
    rows = evaluation_rows(table, position_column="test_position")
    rounds = [(9.0, 0.25), (0.5, 0.25), (0.5, 9.0)]  # seconds of each model
    clock = chain.from_iterable((0.0, taken) for one in rounds for taken in one)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        folders = {name: str(tmp_path / name) for name in ("small", "untied")}
        found = speed.users_per_second(folders, rows, users=users, k=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == {"small": timed / 0.5, "untied": timed / 0.25}

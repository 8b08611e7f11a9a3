"""Timing of models side by side."""

from pathlib import Path

import torch

from kdlib.data.windows import evaluation_rows
from kdlib.inference.speed import users_per_second
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from tests.data.test_windows import histories


def test_every_model_has_a_speed_and_threads_come_back(tmp_path: Path) -> None:
    """All models are timed on the same users, fewer than asked for; PyTorch's threads are as before afterwards."""
    for name in ("small", "untied"):
        (tmp_path / name).mkdir()
        model = SequenceModel(num_items=30, kind="gru", dim=4, tied=name == "small")
        save_model(tmp_path / name, model, model.state_dict(), {})
    table = histories([([user, user + 1, user + 2], [0, 0, 0], 2, None, 2) for user in range(20)])
    rows = evaluation_rows(table, position_column="test_position")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        speed = users_per_second({name: str(tmp_path / name) for name in ("small", "untied")}, rows, users=1_000, k=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert speed.keys() == {"small", "untied"}
    assert min(speed.values()) > 0

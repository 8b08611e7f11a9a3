"""The last training position, in the same form as a held-out position."""

from kdlib.data.windows import evaluation_rows
from kdlib.teachers.ensembles import last_training_rows
from tests.data.test_windows import histories


def test_a_last_training_position_is_told_no_more_than_a_held_out_one() -> None:
    """Both positions hide whether the target opens a session, so the flag cannot make a teacher look surer on one."""
    table = histories([([1, 2, 3, 4], [0, 0, 0, 0], 3, 3, None), ([4, 5, 6], [0, 1, 1], 2, 2, None)])
    for rows in (last_training_rows(table), evaluation_rows(table, position_column="validation_position")):
        assert rows.context[rows.offsets[1:] - 1, 0].tolist() == [1, 1]

"""A worker's training windows, in memory or streamed; no cluster is started."""

import pyarrow as pa
import pytest

from kdlib.data.windows import training_windows
from kdlib.training.shard import Shard, stream_rows
from tests.data.test_windows import histories, timed


class _Iterator:
    """Stands for Ray Data's iterator over a shard."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.passes = 0
        self.rows = 0

    def iter_batches(self, *, batch_size: int, **_: object):
        self.passes += 1
        self.rows = batch_size
        for start in range(0, len(self._table), 10):
            yield self._table.slice(start, 10)


def _windows(users: int) -> pa.Table:
    return training_windows(
        histories([([user, user + 1, user + 2], [0, 0, 0], 3, None, None) for user in range(users)]), max_length=5
    )


@pytest.mark.parametrize(("resident_bytes", "passes"), [(1 << 20, 1), (300, 4)])
def test_a_shard_that_fits_is_read_once(resident_bytes: int, passes: int) -> None:
    """Every epoch sees all windows. A shard that fits is read from Ray Data once, a larger one in each epoch."""
    iterator = _Iterator(_windows(35))
    shard = Shard(iterator, teachers=0, resident_bytes=resident_bytes, world=1)
    for epoch in range(3):
        targets = [target for batch in shard.batches(batch_size=4, seed=epoch) for target in batch.targets_T.tolist()]
        assert sorted(targets) == sorted([user + step for user in range(35) for step in (1, 2)])
    assert iterator.passes == passes


@pytest.mark.parametrize("resident_bytes", [1 << 20, 300])
def test_batches_carry_the_weights_of_a_run(resident_bytes: int) -> None:
    """Each position of a batch has the weight of its target, in memory and streamed. Without weights there is none."""
    table = timed(*[([0, 0, 1], [0, 0, 3 if user % 5 == 0 else 0], [0, 1, 2]) for user in range(35)])
    windows = training_windows(table.set_column(5, "num_train", [[3] * 35]).cast(table.schema), max_length=5)
    shard = Shard(_Iterator(windows), teachers=0, resident_bytes=resident_bytes, world=1)
    weights_K = shard.kind_weights((1.0, 1.0, 1.0, 10.0), 1.0)
    assert weights_K is not None
    found: dict[int, set[float]] = {0: set(), 1: set()}
    for batch in shard.batches(batch_size=4, seed=1, weights_K=weights_K):
        assert batch.weights_T is not None
        for target, weight in zip(batch.targets_T.tolist(), batch.weights_T.tolist(), strict=True):
            found[int(target % 100 == 2 and target // 100 % 5 == 0)].add(round(weight / weights_K[0].item(), 4))
    assert found == {0: {1.0}, 1: {10.0}}
    assert shard.kind_weights(None, 1.0) is None
    assert all(batch.weights_T is None for batch in shard.batches(batch_size=4, seed=1))


@pytest.mark.parametrize(("megabytes", "rows"), [(0.1, 1024), (2, 7281), (1_000, 65_536)])
def test_a_streamed_shard_fits_in_the_memory_it_is_given(megabytes: float, rows: int) -> None:
    """Within bounds, a streamed shard holds a quarter of the memory at a time."""
    iterator = _Iterator(_windows(20))
    size = int(megabytes * 2**20)
    assert stream_rows(size, [72, 60]) == rows
    list(Shard(iterator, teachers=0, resident_bytes=100, world=1).batches(batch_size=4, seed=1))
    assert iterator.rows == 1024


@pytest.mark.parametrize(("resident_bytes", "sizes"), [(1 << 20, [20, 7, 1]), (300, [20, 20, 20])])
def test_few_windows_make_small_batches(resident_bytes: int, sizes: list[int]) -> None:
    """A batch is smaller than asked for if an epoch of 35 windows would have fewer steps than asked for; never empty. A shard
    that is streamed has enough windows."""
    shard = Shard(_Iterator(_windows(35)), teachers=0, resident_bytes=resident_bytes, world=1)
    assert [shard.batch_size(20, least_steps=steps) for steps in (1, 5, 80)] == sizes


def test_a_worker_without_windows_says_so() -> None:
    """An empty shard is an error that names the setting to lower, not an endless wait."""
    with pytest.raises(ValueError, match=r"windows a worker: \[0\].*Lower training\.workers"):
        Shard(_Iterator(_windows(1).slice(0, 0)), teachers=0, resident_bytes=1, world=1)

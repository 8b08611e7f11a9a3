"""When training batches end, for either peer's Lightning: each has a package, and so a `Callback`, of its own."""

import time

import numpy as np


class BatchClock:
    """To be mixed into a `Callback`. A run's first seconds, which are no batch's, are not counted."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> float:
        """Mean of a batch, the first of the first epoch left out; loading included, validation where there was one."""
        return float(np.diff(self.ends).mean())

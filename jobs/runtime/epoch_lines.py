"""Print the epochs of a training while its workers run."""

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from jobs.runtime.console import progress, say

ANSWER_SECONDS = 30.0
"""How long the lines may take to answer. A training goes on without them."""


class _Kept:
    """Actor that keeps the lines of a training."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, text: str) -> None:
        self._lines.append(text)

    def all(self) -> list[str]:
        return self._lines


@dataclass(frozen=True)
class Lines:
    """The lines of a training. Workers on any node add to them. A line that gets lost ends no training."""

    kept: Any
    """Handle of a `_Kept`."""

    def add(self, text: str) -> None:
        """Add a line. It is there when this returns."""
        import ray

        with suppress(Exception):
            ray.get(self.kept.add.remote(text), timeout=ANSWER_SECONDS)

    def all(self) -> list[str]:
        """All lines so far; none if they do not answer."""
        import ray

        with suppress(Exception):
            return ray.get(self.kept.all.remote(), timeout=ANSWER_SECONDS)
        return []


class EpochLines:
    """Prints one line for each epoch. Rank 0 adds it to `lines`; a thread of this process asks for new ones.

    Args:
      total: how many lines to expect.
      stage: title of the progress bar.
    """

    def __init__(self, *, total: int, stage: str) -> None:
        self._total, self._stage = total, stage
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self.lines = Lines(_started())
        self._thread.start()
        return self

    def any(self) -> bool:
        """Whether an epoch has ended since the block began."""
        return bool(self.lines.all())

    def __exit__(self, *_: object) -> None:
        import ray

        self._stop.set()
        self._thread.join()
        if ray.is_initialized():  # else `kill` would start Ray
            ray.kill(self.lines.kept)

    def _follow(self) -> None:
        seen = 0
        with progress(total=self._total, unit="epoch", description=self._stage) as bar:
            while True:
                stopping = self._stop.is_set()
                for text in self.lines.all()[seen:]:
                    bar.clear()
                    say("  " + text)
                    bar.update()
                    seen += 1
                if stopping:
                    return
                self._stop.wait(0.3)


def _started() -> Any:
    """A `_Kept` on this process's node, so that no other node can take it along.

    If the affinity is soft, Ray also places such an actor on other nodes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kept: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Kept)
    return kept.remote()

"""Print the epochs of a training while its workers run."""

import json
import threading
from pathlib import Path
from typing import Self

from jobs.runtime.console import progress, say


class EpochLines:
    """Prints one line for each epoch. Rank 0 appends JSON lines to a file; a thread of this process follows the file.

    Args:
      path: the file. Lines that it has at the start are not printed.
      total: how many lines to expect.
      stage: title of the progress bar.
    """

    def __init__(self, path: Path, *, total: int, stage: str) -> None:
        self._path, self._total, self._stage = path, total, stage
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._path.touch()
        self._seen = self._path.stat().st_size
        self._thread.start()
        return self

    def any(self) -> bool:
        """Whether an epoch has ended since the block began."""
        return self._path.stat().st_size > self._seen

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        with self._path.open() as stream, progress(total=self._total, unit="epoch", description=self._stage) as bar:
            stream.seek(self._seen)
            while True:
                stopping = self._stop.is_set()
                while line := stream.readline():
                    bar.clear()
                    say("  " + json.loads(line)["text"])
                    bar.update()
                if stopping:
                    return
                self._stop.wait(0.3)

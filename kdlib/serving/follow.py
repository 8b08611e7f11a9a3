"""Follow the run in use and the stock: look every few seconds, load beside the old run, switch one reference."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from kdlib.release import promotions
from kdlib.release.promotions import Promotion
from kdlib.serving.figures import Figures
from kdlib.serving.night import Night
from kdlib.serving.stock import StockFile
from kdlib.store.mirror import mirror_of
from kdlib.store.working_copy import refresh

LOOK_SECONDS = 2.0
AGAIN_SECONDS = 60.0
"""How long a run that could not be loaded is left alone."""


class Follower:
    """The run that answers. Whoever answers reads `night` once, so that an answer is of one run.

    At most two runs are in memory: one that answers, and one that is loaded.

    Args:
      root: the output folder.
      load: a switch → the loaded run.
      stock: the items that are out of stock. None: nobody tells.
      figures: to count failures.
      warn: tells a person.
    """

    def __init__(
        self,
        root: Path,
        load: Callable[[Promotion], Night],
        *,
        stock: StockFile | None,
        figures: Figures,
        warn: Callable[[str], None],
    ) -> None:
        self.night: Night | None = None
        self._root, self._load, self._stock, self.figures, self._warn = root, load, stock, figures, warn
        self._pointer: bytes | None = None
        self._out: frozenset[str] = frozenset()
        self._failed: tuple[Promotion | None, float] = (None, 0.0)
        self._said: dict[str, str] = {}
        self._ended = threading.Event()

    def start(self) -> None:
        """Look now, then every `LOOK_SECONDS` in a thread."""
        self.look()
        threading.Thread(target=self._run, daemon=True, name="follower").start()

    def stop(self) -> None:
        """End the thread after its next look."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Look once at the stock and at the run in use. After a failure, what answers goes on."""
        self._try("stock", self._look_at_stock, "the last list stays")
        self._try("run", self._look_at_run, "the run before goes on answering" if self.night else "no run answers yet")

    def _try(self, what: str, look: Callable[[], None], consequence: str) -> None:
        """Look. The thread must go on after any failure; a person reads each text once."""
        try:
            look()
            self._said.pop(what, None)
        except Exception as error:
            self.figures.failed(what)
            text = f"serve: warning: {error}; {consequence}"
            if self._said.get(what) != text:
                self._said[what] = text
                self._warn(text)

    def _look_at_stock(self) -> None:
        items = self._stock.changed() if self._stock else None
        if items is None:
            return
        self._out = items
        self.figures.out_of_stock(len(items))
        if self.night is not None:
            self.night.leave_out(items)

    def _look_at_run(self) -> None:
        self._refresh()
        used = promotions.current(self._root)
        failed, again_at = self._failed
        if used is None or (self.night and _same(self.night.used, used)):
            return
        if failed == used and time.monotonic() < again_at:
            return
        try:
            night = self._load(used)
        except Exception:
            self._failed = used, time.monotonic() + AGAIN_SECONDS
            raise
        night.leave_out(self._out)
        self.night = night
        self.figures.switched(used.ds, night.model_version)

    def _refresh(self) -> None:
        """Bring the working copy of a store up to date, if another run is in use there. Usually this reads one object."""
        mirror = mirror_of(self._root)
        if mirror is None:
            return
        found = mirror.folder.read(mirror.name(self._root / promotions.LINK))
        pointer = None if found is None else found.data
        if pointer != self._pointer:
            refresh(self._root)
            self._pointer = pointer


def _same(one: Promotion, other: Promotion) -> bool:
    """Whether two switches are to the same run."""
    return (one.ds, one.versions) == (other.ds, other.versions)

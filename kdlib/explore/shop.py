"""What the pages need to know of a run config, as plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdlib.explore.run import LISTS, Run, find_run
from kdlib.release.promotions import student_of
from kdlib.report.content import Night
from kdlib.store.working_copy import refresh

FRESH_SECONDS = 30.0
"""How old the working copy of an output folder in an object store may be."""


@dataclass(frozen=True)
class Shop:
    """One output folder, and how its run config reads it."""

    name: str
    """The name of the run config."""
    root: Path
    """The folder of all outputs."""
    day: str
    """The date to show while no run is in use."""
    ds: str | None
    """The date to show. None: the run that is in use when a page is opened."""
    k: int
    """Length of the models' lists."""
    teachers: Mapping[str, Sequence[str]]
    """Teacher → its models: one, or one for each fold."""
    night: Callable[[str], Night]
    """Date → the content of the report."""
    pseudonym_of: Callable[[str], str] | None = None
    """The shop's own user id → its pseudonym. None: the run config has no key."""
    search_missing: str = ""
    """Why product search cannot run here. Empty: it can."""
    made_up_times: bool = False
    """The input has no times: a run makes up one day an item."""

    def run(self) -> Run:
        """The run to show now; InputError if nothing is published."""
        refresh(self.root, older_than=FRESH_SECONDS)
        return find_run(self.root, ds=self.ds, day=self.day)

    def models(self, run: Run) -> dict[str, list[Path]]:
        """Name of each published model of recommendation → its folders; the student that made the lists first, the control last."""
        student = student_of(run.manifest(LISTS) if LISTS in run.versions else None)
        named = {"student": [student], **self.teachers, "student without teacher": ["models/control"]}
        return {
            name: [run.folder(model) for model in models]
            for name, models in named.items()
            if set(models) <= set(run.versions)
        }

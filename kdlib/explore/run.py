"""Which run a page shows: the versions of its tables and models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdlib.errors import InputError
from kdlib.release import promotions
from kdlib.store import partitions
from kdlib.store.partitions import Manifest

LISTS = "recommendations"


@dataclass(frozen=True)
class Run:
    """A run as it was when a page was opened. The page reads these versions only."""

    root: Path
    ds: str
    in_use: bool
    """Readers get this run."""
    versions: Mapping[str, str]
    """Table or model → version."""

    def folder(self, name: str) -> Path:
        """The folder of a table or model.

        Raises:
          InputError: the run does not have it.
        """
        if name not in self.versions:
            raise InputError(
                f"the run of {self.ds} under {self.root} has no {name}: run `distilrec nightly` for this date"
            )
        return partitions.version_data(self.root, name, self.ds, self.versions[name])

    def manifest(self, name: str) -> Manifest:
        """The manifest of a table or model that the run has."""
        return partitions.version_manifest(self.root, name, self.ds, self.versions[name])


def find_run(root: Path, *, ds: str | None, day: str) -> Run:
    """The run of a date, or the run in use.

    Args:
      root: the folder of all outputs.
      ds: the date. None: the run in use.
      day: the date to show while no run is in use.

    Raises:
      InputError: nothing is published for the date.
    """
    now = promotions.current(root)
    if ds is None and now is not None:
        return Run(root, now.ds, True, now.versions)
    ds = ds or day
    versions = {name: partitions.manifest_of(root, name, ds).version for name in partitions.published_on(root, ds)}
    if not versions:
        raise InputError(
            f"nothing is published for {ds} under {root}, so there is nothing to explore: run `distilrec nightly` first"
        )
    in_use = now is not None and now.ds == ds and now.versions.get(LISTS) == versions.get(LISTS)
    return Run(root, ds, in_use, versions)


def lists_before(run: Run) -> tuple[str, Path] | None:
    """Date and folder of the recommendations before a run: the last promoted ones, else the last published ones."""
    night = promotions.last_night(run.root, before=run.ds, holding=LISTS)
    if night is not None:
        return night.ds, promotions.folder_of(run.root, night, LISTS)
    earlier = partitions.latest(run.root, LISTS, before=run.ds)
    return None if earlier is None else (earlier, partitions.current(run.root, LISTS, earlier))

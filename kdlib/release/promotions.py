"""Which run is in use: one link, switched by one rename for tables and models together, and a record of each switch.

    root/promoted                              a link to the current record; in an object store, `promoted.json` stands in for it
    root/_promotions/00003.ds=2026-11-22/      written once; later only the mark `removed` may be added
        promotion.json
        recommendations -> ../../_versions/recommendations/ds=2026-11-22.<version>/data
        models/student  -> …

A reader of `root/promoted/recommendations` finds the last run that passed its gates. A rollback switches back to an
earlier run.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kdlib.config.operations import EXPORT as EXPORT  # Callers write promotions.EXPORT.
from kdlib.config.operations import FURTHER_LISTS
from kdlib.errors import BusyError, GateError, InputError
from kdlib.release.freezing import check_not_frozen
from kdlib.store import leases, partitions
from kdlib.store.files import make_folder, replace_file, sync
from kdlib.store.mirror import RECORDS as RECORDS  # Callers write promotions.RECORDS.
from kdlib.store.mirror import alone, drop, put, write_file
from kdlib.store.partitions import Manifest
from kdlib.store.working_copy import held

LINK = "promoted"
SWITCHING = "_locks/promotions.json"
WAIT_SECONDS = 300
"""How long a switch waits for another one, or for the removal of old runs."""
REMOVED = "removed"
"""Name of an empty file in a record: the run was removed because it is old."""
LINKED = ("recommendations", "models/student", "models/refit", "item_vocabulary")
"""The tables and models that a record links to, those that the run has."""
LISTS = (*FURTHER_LISTS, "recommendations_long")
"""The further lists that a record links to, those that the run has."""
SEARCH = ("search_rankings", "search_index", "models/search_student")
"""The tables and models of product search that a record links to, if the run has them."""


def student_of(lists: Manifest | None) -> str:
    """The student that made a run's lists.

    Args:
      lists: the manifest of the run's recommendations. None: the run has none yet.
    """
    return "models/refit" if lists is not None and "models/refit" in lists.inputs else "models/student"


@dataclass(frozen=True)
class Promotion:
    """One switch: which run is in use from then on."""

    number: int
    """Number of the switch, from 1."""
    ds: str
    """Date of the run that is in use from then on."""
    action: str
    """`promote` or `rollback`."""
    versions: dict[str, str]
    """Table or model → version, for everything that the run consists of."""
    forced: list[str]
    """Gates that failed and were overruled with `--force`."""
    reason: str
    """The text given with `--force` or `--reason`; may be empty."""
    unix_seconds: float


def history(root: Path) -> list[Promotion]:
    """The switches up to the one in force, oldest first.

    Records that cannot be read are left out (`damaged_records`). So is a later one: it was written, and then its process was
    killed before the switch.
    """
    found, last = [], _last(root)
    for folder in _folders(root):
        if folder.name <= last:
            with suppress(InputError):
                found.append(_read(folder))
    return found


def _last(root: Path) -> str:
    """Name of the record in force, or a name above all of them."""
    link = root / LINK
    return Path(os.readlink(link)).name if link.is_symlink() else "~"


def damaged_records(root: Path) -> list[Path]:
    """The records that cannot be read."""
    found = []
    for folder in _folders(root):
        try:
            _read(folder)
        except InputError:
            found.append(folder)
    return found


def _folders(root: Path) -> list[Path]:
    return sorted((root / RECORDS).glob("*.ds=*"))


def current(root: Path) -> Promotion | None:
    """The last switch, which is in force; None before the first."""
    link = root / LINK
    return _read(link.resolve()) if link.exists() else None


def nights(root: Path, *, before: str = partitions.EVER, holding: str | None = None) -> list[Promotion]:
    """The promoted runs by date, each with its last promotion. Runs that a rollback withdrew do not count.

    Args:
      root: the output folder.
      before: only runs before this date (exclusive).
      holding: only runs that have this table or model and were not removed because they are old. A run whose files are
        missing for another reason counts, so that whoever continues from it fails.
    """
    found: dict[str, Promotion] = {}
    for switch in history(root):
        if switch.action == "rollback":
            found = {ds: night for ds, night in found.items() if ds < switch.ds}
        found[switch.ds] = switch
    return [found[ds] for ds in sorted(found) if ds < before and (holding is None or _holds(root, found[ds], holding))]


def last_night(root: Path, *, before: str, holding: str | None = None) -> Promotion | None:
    """The newest of `nights`; None if there is none."""
    return next(reversed(nights(root, before=before, holding=holding)), None)


def last_use(root: Path, ds: str, versions: Mapping[str, str]) -> tuple[Promotion | None, Promotion | None]:
    """The last switch to these versions of a run, and the rollback that has withdrawn them since. None: no switch
    found.

    Args:
      root: the output folder.
      ds: the run's date.
      versions: table or model → version. Other tables and models of the run do not matter.
    """
    used = withdrawn = None
    for switch in history(root):
        if switch.ds == ds and versions.items() <= switch.versions.items():
            used, withdrawn = switch, None
        elif used and switch.action == "rollback" and switch.ds < ds:
            withdrawn = withdrawn or switch
    return used, withdrawn


def folder_of(root: Path, night: Promotion, name: str) -> Path:
    """The data folder of a table or model of a promoted run, with its data if the version has not been removed."""
    return partitions.version_data(root, name, night.ds, night.versions[name])


def has(root: Path, night: Promotion, name: str) -> bool:
    """Whether the version of a table or model of a promoted run has not been removed."""
    return partitions.version_folder(root, name, night.ds, night.versions[name]).is_dir()


def manifest_of(root: Path, night: Promotion, name: str) -> Manifest:
    """The manifest of a table or model of a promoted run.

    Raises:
      InputError: the version is gone.
    """
    return partitions.version_manifest(root, name, night.ds, night.versions[name])


def promote(
    root: Path, ds: str, versions: Mapping[str, str], *, forced: list[str] | None = None, reason: str = ""
) -> Promotion:
    """Put a run in use. Nothing happens if exactly this run, or a later one, is in use.

    Args:
      root: the output folder.
      ds: the run's date.
      versions: table or model → version, for all published partitions of the run.
      forced: gates that failed and were overruled.
      reason: why, in the words of the person.

    Returns:
      The switch that is in force now.

    Raises:
      GateError: the run was built on one that a rollback has withdrawn.
      FrozenError: another run is in use, or none, and this is frozen.
      BusyError: another switch has not ended within `WAIT_SECONDS`.
    """
    with switching(root, "promote"):
        now = current(root)
        if now is not None and (now.ds > ds or (now.ds, now.versions) == (ds, dict(versions))):
            return now
        check_not_withdrawn(root, ds, versions)
        check_not_frozen(root, ds)
        return _switch(root, ds, "promote", dict(versions), forced or [], reason)


def rollback(root: Path, ds: str, *, reason: str = "") -> Promotion:
    """Put an earlier promoted run in use again, tables and models together.

    Raises:
      InputError: the run was never promoted, or its files are gone. The text names the promoted runs.
    """
    with switching(root, "rollback"):
        earlier = [night for night in history(root) if night.ds == ds and night.action == "promote"]
        if not earlier:
            known = ", ".join(sorted({night.ds for night in history(root)}))
            if not known:
                raise InputError(f"no run was ever promoted under {root}: expected {ds}. Run `distilrec nightly` first")
            raise InputError(
                f"{ds} was never promoted under {root}; promoted runs: {known}. To use a run that was made but not"
                " promoted, roll back to a run before it, then `distilrec promote` it"
            )
        return _switch(root, ds, "rollback", earlier[-1].versions, earlier[-1].forced, reason)


def check_not_withdrawn(root: Path, ds: str, versions: Mapping[str, str]) -> None:
    """Raise GateError if a run was built on a table or model of another one that a rollback has withdrawn since.

    Args:
      root: the output folder.
      ds: the run's date.
      versions: table or model → version, of the run.
    """
    for table, version in versions.items():
        inputs = partitions.version_manifest(root, table, ds, version).inputs
        for name in (one for one in ("clean_events", "item_vocabulary", "start") if one in inputs):
            day, dot, before = inputs[name].partition(".")
            withdrawn = dot and last_use(root, day, {table if name == "start" else name: before})[1]
            if withdrawn:
                why = f" ({withdrawn.reason})" if withdrawn.reason else ""
                raise GateError(
                    f"{ds} is not promoted: its {table} was made from the run of {day}, which a rollback to {withdrawn.ds}{why}"
                    f" has withdrawn since. Run `distilrec nightly --ds {ds}` again: it then starts from {withdrawn.ds}"
                )


@contextmanager
def switching(root: Path, action: str) -> Iterator[None]:
    """Hold the lease of all switches: runs of different dates may switch at the same moment.

    Raises:
      BusyError: another process has held it for `WAIT_SECONDS`.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(root, SWITCHING, action, seconds=WAIT_SECONDS))
            stack.enter_context(alone(root))
        except BusyError as error:
            raise BusyError(
                f"another process has been switching runs in {root} for {WAIT_SECONDS} s: {error}. Try again later"
            ) from None
        yield


def _switch(root: Path, ds: str, action: str, versions: dict[str, str], forced: list[str], reason: str) -> Promotion:
    staging = root / partitions.STAGING / f"promotion.{uuid.uuid4().hex[:8]}"
    staging.mkdir(parents=True)
    last = _last(root)
    for folder in _folders(root):
        if folder.name > last:  # its process was killed before the switch
            drop(folder)
            folder.rename(staging.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}"))
    number = 1 + max((int(folder.name.partition(".")[0]) for folder in _folders(root)), default=0)
    switch = Promotion(number, ds, action, versions, forced, reason, time.time())
    record = _record(root, number, ds)
    try:
        text = json.dumps(asdict(switch), indent=1).encode()
        replace_file(staging / "promotion.json", text)
        for name in (one for one in (*LINKED, *LISTS, EXPORT, *SEARCH) if one in versions):
            data = partitions.version_folder(root, name, ds, versions[name])
            if not data.is_dir():
                raise InputError(
                    f"{name} of {ds}, version {versions[name]}, is gone ({data}): choose another run, or rerun this"
                    " date"
                )
            link = staging / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(data, (record / name).parent), target_is_directory=True)
        make_folder(record.parent)
        for folder, _, _ in os.walk(staging):
            sync(Path(folder))
        leases.check_held()
        put(record / "promotion.json", text)
        staging.rename(record)
        sync(record.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    partitions.switch_link(root / LINK, record, scratch=staging)
    return switch


def missing_from(root: Path, night: Promotion) -> list[str]:
    """Files of a promoted run that are missing or cut off, as `table/file`; the table alone where all of it is gone."""
    found = []
    for name in sorted(night.versions):
        try:
            found += [f"{name}/{file}" for file in partitions.damaged(root, manifest_of(root, night, name))]
        except InputError:
            found.append(name)
    return found


def record_of(root: Path, switch: Promotion) -> Path:
    """The folder of a record."""
    return _record(root, switch.number, switch.ds)


def mark_removed(root: Path, *, before: str, busy: Collection[str] = ()) -> None:
    """Mark the runs before a date as removed because they are old, except dates that another run works on."""
    for switch in history(root):
        if switch.ds < before and switch.ds not in busy:
            write_file(_record(root, switch.number, switch.ds) / REMOVED, b"")


def _holds(root: Path, night: Promotion, name: str) -> bool:
    removed = (_record(root, night.number, night.ds) / REMOVED).exists()
    return name in night.versions and (not removed or has(root, night, name))


def _record(root: Path, number: int, ds: str) -> Path:
    return root / RECORDS / f"{number:05d}.ds={ds}"


def _read(folder: Path) -> Promotion:
    try:
        return Promotion(**json.loads((folder / "promotion.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"no usable record of a promotion at {folder}: {error}. `distilrec repair` shows what it"
            " would put in use in its place"
        ) from None

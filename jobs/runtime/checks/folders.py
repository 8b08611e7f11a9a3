"""Checks of the disk: free space, and what the file system of the output folder can do.

The checks work in temporary folders and remove them. If the output folder does not exist yet, they work in the nearest
folder above it that does.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.runtime.checks.finding import Finding, missing, not_needed, ok
from kdlib.store import locks

GIB = 2**30
LEAST_ROOM = GIB
"""Free bytes that the default run config needs, with a margin."""
OTHER_FOLDER = "Set output_dir to a folder on another file system"


def check_room(folder: Path) -> Finding:
    """Whether the disk of a folder has enough free space for a run."""
    place = existing(folder)
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if free < LEAST_ROOM:
        return missing(found, f"Free {LEAST_ROOM / GIB:.0f} GiB there, or name a folder with more room")
    return ok(found)


def check_libraries(folder: Path) -> Finding:
    """Whether libraries can be loaded from a folder. Spark and Triton load some of theirs from /tmp."""
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return missing(f"{folder} is mounted with noexec", "Mount it without noexec. In a container: --tmpfs /tmp:exec")
    return ok(f"can be loaded from {folder}")


def check_shared_memory(megabytes: int, folder: Path = Path("/dev/shm")) -> Finding:
    """Whether shared memory has space for Ray's object store. If not, Ray puts the store into its folder in /tmp.

    Args:
      megabytes: size of the object store, in MiB.
      folder: where shared memory is mounted.
    """
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    found = f"{free / 2**20:,.0f} MiB free in {folder}, Ray's object store takes {megabytes:,} MiB"
    if free < megabytes * 2**20:
        return ok(found, f"Ray uses /tmp instead, which is slower. In a container: --shm-size={megabytes + 512}m")
    return ok(found)


def check_file_system(folder: Path) -> Finding:
    """Whether the file system of the output folder can do what a switch of tables and models needs."""
    cannot = []
    for ability, attempt in ABILITIES.items():
        try:
            with scratch(folder) as place:
                attempt(place)
        except OSError as error:
            if attempt is _write:
                return missing(
                    f"cannot write below {folder}: {error.strerror or error}",
                    "Set output_dir to a folder that you may write to",
                )
            cannot.append(f"{ability} ({error.strerror or error})")
    if cannot:
        return missing(f"{existing(folder)} cannot {', '.join(cannot)}", OTHER_FOLDER)
    return ok(f"{folder} can {', '.join(ABILITIES)}")


def check_locks(folder: Path) -> Finding:
    """Whether a kernel lock that this process holds keeps another process out. Leases work without it, but slower."""
    try:
        with scratch(folder):
            pass
    except OSError:
        return not_needed(f"not tried, because {existing(folder)} cannot be written")
    advice = "Runs are kept apart by leases. After a killed run, the next one of its date waits a minute"
    with scratch(folder) as place, (place / "lock").open("a") as file:
        try:
            locks.lock(file, seconds=0)
        except OSError as error:
            return ok(f"no kernel locks at {existing(folder)}: {error.strerror or error}", advice)
        if not locks.protects(place / "lock"):
            return ok(f"kernel locks at {existing(folder)} protect nothing: a second process got the lock too", advice)
    return ok("a lock keeps a second process out")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder on the file system of another folder."""
    with tempfile.TemporaryDirectory(prefix=".distilrec-doctor-", dir=existing(folder)) as place:
        yield Path(place)


def _write(place: Path) -> None:
    data = os.urandom(1 << 16)
    (place / "file").write_bytes(data)
    _expect((place / "file").read_bytes() == data, "it gives back other bytes")


def _rename(place: Path) -> None:
    for name in ("old", "new"):
        (place / name).write_text(name)
    (place / "new").replace(place / "old")
    _expect((place / "old").read_text() == "new", "a reader finds the old file")


def _switch_link(place: Path) -> None:
    for name in ("old", "new"):
        (place / name).mkdir()
        (place / f"link to {name}").symlink_to(name)
    (place / "link to new").replace(place / "link to old")
    _expect((place / "link to old").resolve().name == "new", "a reader finds the old folder")


def _flush(place: Path) -> None:
    (place / "file").write_text("x")
    for name in ("file", "."):
        descriptor = os.open(place / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise OSError(otherwise)


ABILITIES: dict[str, Callable[[Path], None]] = {
    "write files": _write,
    "replace a file by a rename": _rename,
    "replace a symbolic link by a rename": _switch_link,
    "flush files and folders": _flush,
}

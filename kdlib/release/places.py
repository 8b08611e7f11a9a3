"""Where tables are delivered to, and the pointer there that names the run in use.

A place is a folder on a disk or in an object store (`kdlib.store.folders`). Its pointer is `promoted.json`: readers open it
first, then the files that it names.
"""

import json
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kdlib.config.operations import EXPORT, refuse_credentials
from kdlib.errors import ConfigError, DeliveryError
from kdlib.release.promotions import LISTS
from kdlib.store.folders import DiskFolder, Folder, Found
from kdlib.store.mirror import mirror_of
from kdlib.store.objects import folder_at

POINTER = "promoted.json"
TABLES = ("recommendations", *LISTS, "search_rankings")
"""The tables that are delivered. Models and intermediate tables stay in the output folder."""
DELIVERED = (*TABLES, EXPORT)
"""All that is delivered. The export is delivered as files, in every format."""
BEGINNING = b'{\n "ds": "'
"""How a pointer begins. Earlier versions of distilrec could leave an empty one, or only its first bytes."""
OTHER_KINDS = {
    "s3a": "write s3:// in place of s3a://",
    "hdfs": "HDFS cannot replace a file on a condition: deliver to an object store, or to a folder",
}


@dataclass(frozen=True)
class Delivered:
    """The content of `promoted.json`: what is in use at a place."""

    ds: str
    number: int
    """Number of the switch (`kdlib.release.promotions`) that put this run in use."""
    versions: dict[str, str]
    """Table → version of its partition."""
    files: dict[str, list[dict[str, Any]]]
    """Table → its files: `path` relative to the place, `bytes`, `sha256`, `rows`. For Delta Lake only those of the export."""
    folders: dict[str, str] = field(default_factory=dict)
    """Table → name of its folder. Erasing a user in the output folder changes the name."""
    owner: str = ""
    """Name of the output folder that was delivered."""
    erased: str | None = ""
    """Hash of the forgotten users whom no delivered file contains. None: older files may still contain them."""


def place(url: str) -> Folder:
    """The folder of a URL. No connection is opened.

    Raises:
      ConfigError: the URL is malformed, of another kind, or holds credentials.
    """
    try:
        refuse_credentials(url)
        return folder_at(url)
    except ValueError as error:
        raise ConfigError(f"delivery.{error}") from None
    except ConfigError as error:
        advice = OTHER_KINDS.get(urlsplit(url).scheme)
        raise ConfigError(f"delivery.url {error}{f' ({advice})' if advice else ''}") from None


def place_outside(root: Path, url: str) -> Folder:
    """`place` of a URL that lies outside the output folder, and does not contain it.

    Inside, `forget` and the removal of old runs would find the delivered files and treat them as their own.

    Raises:
      ConfigError: one contains the other; or as `place`.
    """
    there = place(url)
    if mirror := mirror_of(root):
        here, path = f"{mirror.folder.url}/", f"{there.url}/"
        if path.startswith(here) or here.startswith(path):
            raise ConfigError(
                f"delivery.url {url!r} and output_dir {mirror.folder.url} overlap: one lies inside the other."
                " Deliver to a separate folder"
            )
    if isinstance(there, DiskFolder):
        here, path = root.resolve(), there.path.resolve()
        if path.is_relative_to(here) or here.is_relative_to(path):
            raise ConfigError(
                f"delivery.url {url!r} and output_dir {root} overlap: one lies inside the other."
                " Deliver to a separate folder"
            )
    return there


def delivered(url: str) -> Delivered | None:
    """What is in use at a place; None before the first delivery.

    Raises:
      ConfigError: as `place`.
      DeliveryError: as `read_pointer`.
    """
    return read_pointer(place(url))[1]


def read_pointer(there: Folder) -> tuple[Found | None, Delivered | None]:
    """The object `promoted.json`, and what it says.

    The second is None before the first delivery, and where an earlier version was killed while it wrote the object.

    Raises:
      DeliveryError: the place cannot be reached, or distilrec did not write its `promoted.json`.
    """
    try:
        found = there.read(POINTER)
    except OSError as error:
        raise cannot_deliver(there.url, error) from error
    if found is None:
        return None, None
    try:
        return found, Delivered(**json.loads(found.data))
    except (ValueError, TypeError) as error:
        if isinstance(error, ValueError) and BEGINNING.startswith(found.data[: len(BEGINNING)]):
            return found, None
        raise DeliveryError(
            f"{there.url}/{POINTER} was not written by distilrec, or is damaged: {error}. Remove it and run"
            " `distilrec deliver`"
        ) from None


def write_pointer(there: Folder, now: Delivered, *, over: Found | None) -> Found:
    """Replace `promoted.json` in one step.

    Args:
      there: the place.
      now: what is in use from then on.
      over: what `promoted.json` holds, from `read_pointer`.

    Raises:
      ConflictError: another delivery has replaced it.
      OSError: the place cannot be reached or written.
    """
    return there.write(POINTER, json.dumps(asdict(now), indent=1).encode(), over=over)


def write_and_remove(there: Folder) -> None:
    """Write a small file to a place as a delivery does, read it, and leave the place as it was.

    Raises:
      OSError: the place cannot be written, read or cleaned.
    """
    made: list[Path] = []
    if isinstance(there, DiskFolder):
        made = [one for one in (there.path, *there.path.parents) if not one.exists()]
    path = f".distilrec-doctor-{uuid.uuid4().hex}"
    left = [path, f".{path}.lock"]
    try:
        found = there.write(path, b"distilrec", over=None)
        there.write(path, b"distilrec doctor", over=found)
        found = there.read(path)
        if found is None or found.data != b"distilrec doctor":
            raise OSError("the place gives back other bytes than were written")
        there.remove(left)
    except BaseException:
        with suppress(OSError):  # the first error says more
            there.remove(left)
        raise
    finally:
        for folder in made:  # deepest first
            with suppress(OSError):  # somebody else has put a file there, or it was never made
                folder.rmdir()


def cannot_deliver(url: str, error: Exception) -> DeliveryError:
    """The error for a place that cannot be reached or written."""
    return DeliveryError(
        f"cannot deliver to {url}: {first_line(error)}. The run is in use in the output folder, but readers there"
        " still find the run before: run `distilrec deliver` when the place can be reached and written"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 400 characters: clients of object stores write pages."""
    return (str(error).splitlines() or [type(error).__name__])[0][:400]

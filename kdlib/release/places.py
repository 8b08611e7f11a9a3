"""Where tables are delivered to, and the pointer there that names the run in use.

A place is a folder that `pyarrow.fs` reaches, in an object store or in any other file system. Its pointer is
`promoted.json`: readers open it first, then the files that it names.
"""

import json
import re
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from kdlib.config.operations import refuse_credentials
from kdlib.errors import ConfigError, DeliveryError
from kdlib.release.promotions import LISTS

POINTER = "promoted.json"
TABLES = ("recommendations", *LISTS, "search_rankings")
"""The tables that are delivered. Models and intermediate tables stay in the output folder."""
READ_ATTEMPTS = 3
"""How often to read the pointer. While another process replaces the object, a reader may get only a part of it."""


@dataclass(frozen=True)
class Delivered:
    """The content of `promoted.json`: what is in use at a place."""

    ds: str
    number: int
    """Number of the switch (`kdlib.release.promotions`) that put this run in use."""
    versions: dict[str, str]
    """Table → version of its partition."""
    files: dict[str, list[dict[str, Any]]]
    """Table → its files: `path` relative to the place, `bytes`, `sha256`, `rows`. Empty for Delta Lake."""
    folders: dict[str, str] = field(default_factory=dict)
    """Table → name of its folder. Erasing a user in the output folder changes the name."""
    owner: str = ""
    """Name of the output folder that was delivered."""
    erased: str | None = ""
    """Hash of the forgotten users whom no delivered file contains. None: older files may still contain them."""


def place(url: str, *, ask: bool = True) -> tuple[fs.FileSystem, str]:
    """The file system of a URL, and the path in that file system.

    Args:
      url: as `delivery.url` of the run config.
      ask: false: open no connection. The file system of an `s3://` URL is then a stand-in.

    Raises:
      ConfigError: the URL is malformed, of a kind that `pyarrow.fs` does not know, or holds credentials.
      DeliveryError: the place cannot be reached (S3 is asked for the bucket's region).
    """
    try:
        refuse_credentials(url)
    except ValueError as error:
        raise ConfigError(f"delivery.{error}") from None
    try:
        # An S3 file system looks up region and credentials as soon as it is made. It refuses "s3:///x" before that.
        system, path = fs.FileSystem.from_uri(url if ask else re.sub(r"^s3://(?!/)", "mock://", url))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"delivery.url {url!r}: {error}; expected s3://bucket/folder, gs://… or file:///folder"
        ) from None
    except OSError as error:
        raise cannot_deliver(url, error) from None
    return system, path.rstrip("/")


def place_outside(root: Path, url: str, *, ask: bool = True) -> tuple[fs.FileSystem, str]:
    """`place` of a URL that lies outside the output folder, and does not contain it.

    Inside, `forget` and the removal of old runs would find the delivered files and treat them as their own.

    Raises:
      ConfigError: one contains the other; or as `place`.
      DeliveryError: as `place`.
    """
    system, base = place(url, ask=ask)
    here, there = root.resolve(), Path(base).resolve()
    if isinstance(system, fs.LocalFileSystem) and (there.is_relative_to(here) or here.is_relative_to(there)):
        raise ConfigError(
            f"delivery.url {url!r} and output_dir {root} overlap: one lies inside the other."
            " Deliver to a separate folder"
        )
    return system, base


def delivered(url: str) -> Delivered | None:
    """What is in use at a place; None before the first delivery.

    Raises:
      DeliveryError: the place cannot be reached, or distilrec did not write its `promoted.json`.
    """
    system, base = place(url)
    path, fault = f"{base}/{POINTER}", None
    for _ in range(READ_ATTEMPTS):
        try:
            if system.get_file_info(path).type == fs.FileType.NotFound:
                return None
            return Delivered(**json.loads(read_bytes(system, path)))
        except OSError as error:
            raise cannot_deliver(url, error) from None
        except (ValueError, TypeError) as error:
            fault = error
    raise DeliveryError(
        f"{url}/{POINTER} was not written by distilrec, or is damaged: {fault}. Remove it and run `distilrec deliver`"
    )


def write_pointer(system: fs.FileSystem, base: str, now: Delivered) -> None:
    """Replace `promoted.json` in one atomic step.

    An object store shows a new object only when it is complete. A local file is written aside and renamed.
    """
    local = isinstance(system, fs.LocalFileSystem)
    path = f"{base}/{POINTER}"
    with system.open_output_stream(f"{path}.new" if local else path) as stream:
        stream.write(json.dumps(asdict(now), indent=1).encode())
    if local:
        system.move(f"{path}.new", path)


def write_and_remove(system: fs.FileSystem, base: str) -> None:
    """Write a small file below a place, read it, and leave the place as it was.

    Raises:
      OSError: the place cannot be written, read or cleaned.
    """
    is_local = isinstance(system, fs.LocalFileSystem)
    folders = [str(one) for one in (Path(base), *Path(base).parents)]
    folders = [one for one in folders if is_local or "/" in one]  # without a slash it is the bucket
    made = [one for one in folders if _is_missing(system, one)]
    path, content = f"{base}/.distilrec-doctor-{uuid.uuid4().hex}", b"distilrec doctor"
    try:
        if is_local:
            system.create_dir(base)
        with system.open_output_stream(path) as stream:
            stream.write(content)
        if read_bytes(system, path) != content:
            raise OSError("the place gives back other bytes than were written")
    finally:
        if system.get_file_info(path).type != fs.FileType.NotFound:
            system.delete_file(path)
        for folder in made:  # deepest first; an object store keeps a marker for the folder of a removed object
            is_there = system.get_file_info(folder).type != fs.FileType.NotFound
            if is_there and not system.get_file_info(fs.FileSelector(folder)):
                system.delete_dir(folder)


def _is_missing(system: fs.FileSystem, folder: str) -> bool:
    try:
        return system.get_file_info(folder).type == fs.FileType.NotFound
    except OSError:  # a key for one folder may not list the folders above it
        return False


def read_bytes(system: fs.FileSystem, path: str) -> bytes:
    """The content of a file at a place."""
    with system.open_input_file(path) as stream:
        return stream.read()


def cannot_deliver(url: str, error: Exception) -> DeliveryError:
    """The error for a place that cannot be reached or written."""
    return DeliveryError(
        f"cannot deliver to {url}: {first_line(error)}. The run is in use in the output folder, but readers there"
        " still find the run before: run `distilrec deliver` when the place can be reached and written"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 400 characters: clients of object stores write pages."""
    return (str(error).splitlines() or [type(error).__name__])[0][:400]

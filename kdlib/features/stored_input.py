"""What Spark reads and writes in an object store: through Spark's connector, else from copies on this machine.

`reading_stores` opens the way for a block of code. Inside, `kdlib.features.read.spark_path` gives paths that Spark can
read, rows name the shop's files (`shop_names`), and so do errors.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from urllib.parse import quote

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from kdlib.errors import ConfigError, DistilrecError, InputError
from kdlib.features.connectors import connected, package_for
from kdlib.store.copies import copy_files
from kdlib.store.mirror import mirror_of
from kdlib.store.remote_files import RemoteFile, fixed_part, is_hidden, is_object, remote_files, why


@dataclass
class Stores:
    """The object stores that a block reads, and what it has copied from them."""

    spark: SparkSession
    new_folder: Callable[[], Path]
    tell: Callable[[str], None]
    schemes: dict[str, str | None] = field(default_factory=dict)
    """Scheme of a URL → the scheme of Spark's connector; None: Spark has none."""
    folder: Path | None = None
    """Where the copies are, once there are any."""
    tops: list[str] = field(default_factory=list)
    """The folders at URLs that are copied; the copies of the n-th are in the folder `n`."""
    copied: dict[str, RemoteFile] = field(default_factory=dict)
    """URL → the file as it was copied."""

    @property
    def has_this_disk(self) -> bool:
        """Whether all of Spark runs on this machine."""
        return (self.spark.sparkContext.master or "").startswith("local")

    def paths(self, urls: Sequence[str]) -> list[str]:
        """The paths that Spark can read, in the same order."""
        scheme = urls[0].partition("://")[0]
        if scheme not in self.schemes:
            self.schemes[scheme] = connected(self.spark, scheme, os.environ)
        if name := self.schemes[scheme]:
            return [f"{name}://{url.partition('://')[2]}" for url in urls]
        if not self.has_this_disk:
            raise ConfigError(
                f"Spark at {self.spark.sparkContext.master} has no connector for {scheme}://, so it cannot read {urls[0]}. Set spark.conf"
                f" spark.jars.packages to {package_for(self.spark, scheme)}; or set spark.master: local[*], which reads copies"
            )
        return self._copies(urls)

    def _copies(self, urls: Sequence[str]) -> list[str]:
        """Copy the files that are not yet copied; returns the paths of the copies, with the patterns of the URLs."""
        if self.folder is None:
            self.folder = self.new_folder().absolute()
        found, paths, tops = dict[RemoteFile, Path](), [], dict[str, None]()
        for url in urls:
            files, top = self._files_of(url)
            if top not in self.tops:
                self.tops.append(top)
            tops[top], place = None, self.folder / str(self.tops.index(top))
            found |= {file: place / file.url[len(top) + 1 :] for file in files if self.copied.get(file.url) != file}
            paths.append(f"file:{place}/{url[len(top) + 1 :]}")
        if found:
            size = max(0.1, sum(file.size for file in found) / 1e6)
            where = next(iter(found)).url if len(found) == 1 else f"{len(found):,} files of {next(iter(tops))}"
            more = f" and {len(tops) - 1:,} other folders" if len(tops) > 1 else ""
            self.tell(
                f"Spark has no connector for {urls[0].partition('://')[0]}://, so {where}{more} ({size:,.1f} MB)"
                f" {'is' if len(found) == 1 else 'are'} copied to {self.folder}"
            )
        for place in found.values():
            place.unlink(missing_ok=True)
        try:
            copy_files(found)
        except OSError as error:
            raise InputError(f"cannot copy the files of {urls[0]}: {why(error, urls[0])}") from None
        self.copied |= {file.url: file for file in found}
        return paths

    def _files_of(self, url: str) -> tuple[list[RemoteFile], str]:
        """The files that Spark would read, and the folder that their copies have in common."""
        top = fixed_part(url)
        try:
            files = [file for file in remote_files(url) if not is_hidden(file.url[len(top) + 1 :])]
        except OSError as error:
            raise InputError(f"cannot list {url}: {why(error, url)}") from None
        if not files:
            raise InputError(f"no file matches {url}. Check the path in the run config")
        return files, top.rpartition("/")[0] if files[0].url == top else top

    def shop_text(self, text: str) -> str:
        """A text with the shop's URLs in place of the copies' names."""
        if self.folder is None:
            return text
        folders = "|".join({re.escape(str(self.folder)), re.escape(quote(str(self.folder)))})
        return re.sub(rf"(?:file:/*)?(?:{folders})/(\d+)", lambda found: self.tops[int(found[1])], text)

    def shop_column(self, file: Column) -> Column:
        """A column of files' names with the shop's URLs in place of the copies' names and the connectors' schemes."""
        begins = [(rf"^{name}://", f"{scheme}://") for scheme, name in self.schemes.items() if name and name != scheme]
        if self.folder:
            folder = re.escape(self.folder.name)
            begins += [(rf"^file:.*/{folder}/{number}/", f"{top}/") for number, top in enumerate(self.tops)]
        literal = [(begin, re.sub(r"([$\\])", r"\\\1", url)) for begin, url in begins]
        return reduce(lambda column, pair: F.regexp_replace(column, *map(F.lit, pair)), literal, file)


_OPEN: ContextVar[Stores | None] = ContextVar("stores", default=None)


@contextmanager
def reading_stores(
    spark: SparkSession, *, new_folder: Callable[[], Path], tell: Callable[[str], None]
) -> Iterator[None]:
    """Let `spark_path` take URLs of object stores. Copies are removed with the end of the block.

    Args:
      spark: the session.
      new_folder: makes an empty folder for copies. It is called with the first copy.
      tell: prints a line.
    """
    stores = Stores(spark, new_folder, tell)
    before = _OPEN.set(stores)
    try:
        yield
    except DistilrecError as error:
        raise type(error)(stores.shop_text(str(error))) from None
    finally:
        _OPEN.reset(before)
        if stores.folder:
            shutil.rmtree(stores.folder, ignore_errors=True)


def readable_paths(paths: Sequence[str]) -> list[str]:
    """The paths that Spark can read, for paths of files, folders or patterns of one place.

    Raises:
      InputError: a URL of an object store names no file, or the store refuses.
      ConfigError: Spark runs on a cluster and has no connector for the store. Or the disk has no room for copies.
    """
    stores = _OPEN.get()
    if stores and not stores.has_this_disk:
        paths = [_in_store(path) for path in paths]
    return stores.paths(paths) if stores and paths and is_object(paths[0]) else list(paths)


def _in_store(path: str) -> str:
    """The URL of a `file:` path in the working copy of an output folder in a store; other paths as they are."""
    mirror = mirror_of(Path(path.removeprefix("file:"))) if path.startswith("file:") else None
    return f"{mirror.folder.url}/{mirror.name(Path(path.removeprefix('file:')))}" if mirror else path


def shop_names(file: Column) -> Column:
    """The shop's names of files, for a column with the names of the files that Spark has read."""
    stores = _OPEN.get()
    return stores.shop_column(file) if stores else file


def shop_name(file: str) -> str:
    """The shop's name of a file that Spark has read."""
    stores = _OPEN.get()
    return stores.shop_text(file) if stores else file

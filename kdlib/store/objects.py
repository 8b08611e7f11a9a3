"""The folder of any URL, and a folder in an object store, through the package `obstore`: `s3://`, `gs://` and `abfss://`.

Each call has a deadline, and a signal ends it. Credentials and the endpoint come from the environment, as for every client of
the store. For S3 they also come from the files of the AWS command line, if `boto3` is installed.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from kdlib.errors import ConfigError
from kdlib.store.folders import ConflictError, DiskFolder, Folder, Found, StoreError
from kdlib.store.waiting import wait_for

Result = TypeVar("Result")

REQUEST_SECONDS = 30
"""How long one request may take. It moves `CHUNK_BYTES` at most."""
RETRY_SECONDS = 60
"""How long a failed request is tried again."""
RETRIES = 5
CHUNK_BYTES = 8 * 2**20
CONNECT_SECONDS = 10
S3 = "https://s3.amazonaws.com"


EXPECTED = (
    "s3://bucket/folder, gs://bucket/folder, abfss://container@account.dfs.core.windows.net/folder or file:///folder"
)


def folder_at(url: str) -> Folder:
    """The folder of a URL. No connection is opened.

    Raises:
      ConfigError: the URL is malformed, or of another kind.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc:
        return DiskFolder(Path(unquote(parts.path)))
    if parts.scheme in ("s3", "gs", "abfss") and re.fullmatch(r"[\w.@-]+", parts.netloc):
        return ObjectFolder(url)
    raise ConfigError(f"{url!r}: expected {EXPECTED}")


class ObjectFolder:
    """A folder in an object store (`kdlib.store.folders.Folder`)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __reduce__(self) -> tuple[type["ObjectFolder"], tuple[str]]:
        return ObjectFolder, (self.url,)

    @cached_property
    def store(self) -> Any:
        """The store of `obstore`."""
        from obstore.store import from_url

        return from_url(self.url, **self._options())

    def file_system(self) -> Any:
        """A file system for datasets of Arrow. Its paths begin with the bucket."""
        from obstore.fsspec import FsspecStore

        kind: Any = self.url.partition(":")[0]
        options: Any = self._within_time(self._options) | {"skip_instance_cache": True}
        return FsspecStore(kind, **options)

    def read(self, path: str) -> Found | None:
        from obstore.exceptions import NotFoundError

        def get() -> Found | None:
            try:
                found = self.store.get(path)
                return Found(bytes(found.bytes()), found.meta["e_tag"], found.meta["version"])
            except (NotFoundError, FileNotFoundError):
                return None

        return self._within_time(get)

    def write(self, path: str, data: bytes, *, over: Found | None) -> Found:
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        mode: Any = "create"
        if over is not None:
            mode = {name: value for name, value in (("e_tag", over.tag), ("version", over.version)) if value}

        def put() -> Found:
            try:
                done = self.store.put(path, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                raise ConflictError(f"{self.url}/{path} holds something else than before") from None
            except (NotFoundError, FileNotFoundError):
                if over is None:  # there is no such bucket
                    raise
                raise ConflictError(f"{self.url}/{path} is gone") from None
            return Found(data, done["e_tag"], done["version"])

        for is_last in (False, True):
            try:
                return self._within_time(put)
            except StoreError:
                now = self.read(path)  # it may be written, and the answer is lost
                if now is not None and now.data == data:
                    return now
                if is_last or now != over:  # the client itself does not repeat a write
                    raise
        raise AssertionError

    def files(self, prefix: str = "") -> dict[str, int]:
        return {one["path"]: one["size"] for one in self._list(prefix)}

    def tags(self) -> dict[str, str]:
        """All objects → the store's name for their content."""
        return {one["path"]: one["e_tag"] for one in self._list("")}

    def _list(self, prefix: str) -> list[dict[str, Any]]:
        pages: Iterator[Any] = self._within_time(lambda: iter(self.store.list(prefix or None, chunk_size=1000)))
        found = list[dict[str, Any]]()
        while (page := self._within_time(lambda: next(pages, None))) is not None:
            found += page
        return found

    def upload(self, file: Path, path: str) -> None:
        requests = 1 + file.stat().st_size // CHUNK_BYTES
        how = {"use_multipart": requests > 1, "chunk_size": CHUNK_BYTES, "max_concurrency": 4}
        self._within_time(lambda: self.store.put(path, file, **how), requests=requests)

    def download(self, path: str, file: Path) -> None:
        found = self._within_time(lambda: self.store.head(path))
        with file.open("xb") as stream:
            for start in range(0, found["size"], CHUNK_BYTES):
                end = min(start + CHUNK_BYTES, found["size"])
                stream.write(self._within_time(lambda a=start, b=end: self.store.get_range(path, start=a, end=b)))
        if self._within_time(lambda: self.store.head(path))["e_tag"] != found["e_tag"]:
            raise ConflictError(f"{self.url}/{path} was replaced while it was read")

    def remove(self, paths: Iterable[str]) -> None:
        from obstore.exceptions import NotFoundError

        def delete(path: str) -> None:
            with suppress(NotFoundError, FileNotFoundError):
                self.store.delete(path)

        for path in paths:
            self._within_time(lambda one=path: delete(one))

    def _options(self) -> dict[str, Any]:
        """How to connect."""
        options: dict[str, Any] = {
            "client_options": {
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "allow_http": True,  # for an endpoint that begins with http://
            },
            "retry_config": {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        }
        if self.url.startswith("s3:"):
            found = {"credential_provider": s3_provider(), "region": s3_region(self.url)}
            options |= {name: value for name, value in found.items() if value}
        return options

    def _within_time(self, request: Callable[[], Result], *, requests: int = 1) -> Result:
        return wait_for(request, seconds=RETRY_SECONDS + REQUEST_SECONDS * requests, where=self.url)


def s3_provider() -> Any:
    """What reads keys as the AWS command line does, for `obstore`; None where the environment has keys, or nothing has."""
    known = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    known = (*known, "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE")
    if any(name in os.environ for name in known):
        return None
    with suppress(ImportError, ValueError):  # no boto3, or it finds no keys: `obstore` then asks the machine's service
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    return None


def s3_region(url: str) -> str | None:
    """The region of a bucket, which S3 tells everybody; None where the environment says it, or there is no such bucket."""
    known = {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"}
    if known & os.environ.keys():
        return None
    bucket = url.removeprefix("s3://").partition("/")[0]
    try:
        answer = urlopen(Request(f"{S3}/{bucket}", method="HEAD"), timeout=CONNECT_SECONDS)
    except HTTPError as error:  # the bucket is elsewhere, or not for everybody
        answer = error
    with answer:
        return answer.headers["x-amz-bucket-region"]

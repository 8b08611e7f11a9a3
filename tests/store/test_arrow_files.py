"""An output folder in an object store, read and written through Arrow."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.fsspec import FsspecStore

from kdlib.store.arrow_files import arrow_files, arrow_path
from kdlib.store.mirror import attach, mirror_of


def test_arrow_reads_and_writes_without_credentials_in_the_pickle(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process gets the file system without the key, and uses its own environment's. Bytes and Arrow's buffers are written."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    attach(tmp_path, f"{s3}/{tmp_path.name}")
    mirror = mirror_of(tmp_path)
    assert mirror is not None
    FsspecStore.clear_instance_cache()  # of another server
    sent = pickle.dumps(arrow_files(mirror))
    assert b"very-secret" not in sent
    files = pickle.loads(sent)
    table = pa.table({"a": [1, 2, 3]})
    place = arrow_path(mirror, tmp_path / "_staging" / "t" / "a.parquet")
    with files.open_output_stream(place) as stream:
        pq.write_table(table, stream)
    with files.open_output_stream(f"{place}.txt") as stream:
        stream.write(b"hello")
    assert pq.read_table(place, filesystem=files).equals(table)
    found = mirror.folder.read("_staging/t/a.parquet.txt")
    assert found is not None
    assert found.data == b"hello"

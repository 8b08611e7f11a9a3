"""Some columns of all rows of a source, as far as a bound allows: the last day stands at no fixed place."""

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.errors import InputError
from kdlib.onboarding.files import BUFFER_BYTES, File, open_file, open_stream, spread
from kdlib.onboarding.forms import Form
from kdlib.onboarding.sample import Source, csv_table, text_of_column, trimmed

MOST_BYTES = 1 << 30
"""Text to read, over all files."""
MOST_ROWS = 20_000_000
"""Rows of Parquet files to read, over all files."""
REMOTE_SHARE = 16
"""Of files at a URL, a scan reads this part of the bytes and rows above."""
MOST_FILES = 200
TAIL_BYTES = 4 << 20
"""Read from the end of a text file that is too long to be read whole."""
_BLOCK = 8 << 20
Columns = dict[str, pa.Array]


class Scan:
    """Batches of a source's rows: column → trimmed text. Afterwards `whole` tells whether they were all rows.

    From JSON lines only the first of the columns is read.
    """

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self.source = source
        self.names = list(names[:1] if source.form.format == "jsonl" else dict.fromkeys(names))
        self.num_rows = 0
        self.files = spread(source.files, MOST_FILES)
        self.whole = len(self.files) == len(source.files)
        self.share = len(self.files) * (REMOTE_SHARE if self.files[0].is_remote else 1)

    def __iter__(self) -> Iterator[Columns]:
        for file in self.files:
            try:
                for columns in self._batches(file):
                    self.num_rows += len(next(iter(columns.values())))
                    yield {name: trimmed(values) for name, values in columns.items()}
            except (OSError, pa.ArrowException, EOFError) as error:
                raise InputError(
                    f"cannot read {file.path}: {str(error).splitlines()[0]}. Is the file whole? Replace it, or leave it"
                    " out"
                ) from None

    def _batches(self, file: File) -> Iterator[Columns]:
        form = self.source.form
        if form.format not in ("csv", "jsonl"):  # the files of Delta Lake and Iceberg tables are Parquet, too
            yield from self._parquet(file)
            return
        first = True
        for text in self._texts(file, most=MOST_BYTES // self.share):
            if form.format == "csv":
                yield self._csv(text, form, first=first and form.first_line_names)
            else:
                yield self._json(text)
            first = False

    def _texts(self, file: File, *, most: int) -> Iterator[bytes]:
        """Blocks of whole lines from the start of a file, and its last lines where there are more."""
        read, rest = 0, b""
        with open_stream(file) as stream:
            while block := stream.read(_BLOCK):
                read += len(block)
                end = block.rfind(b"\n") + 1
                yield rest + block[:end]
                rest = block[end:]
                if read >= most:
                    break
            else:
                if rest:
                    yield rest
                return
            self.whole = self.whole and not stream.read(1)
        if file.compression is None and file.size > read:
            with open_file(file) as stream:
                stream.seek(max(read, file.size - TAIL_BYTES))
                yield stream.read().partition(b"\n")[2]

    def _csv(self, text: bytes, form: Form, *, first: bool) -> Columns:
        if not text.strip():
            return {name: pa.array([], pa.string()) for name in self.names}
        table, _ = csv_table(
            text.decode("utf-8", "replace").removeprefix("\ufeff"), form, skip_first=first, only=self.names
        )
        return {name: table[name].combine_chunks() for name in self.names}

    def _json(self, text: bytes) -> Columns:
        (name,) = self.names
        key = re.escape(name).encode()
        found = re.findall(rb'"%s"\s*:\s*(?:"([^"]*)"|(-?[\d.]+))' % key, text)
        return {name: pa.array([(one or two).decode("utf-8", "replace") for one, two in found], pa.string())}

    def _parquet(self, file: File) -> Iterator[Columns]:
        with open_file(file) as stream:
            found = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
            groups, most = found.metadata.num_row_groups, max(1, MOST_ROWS // self.share)
            step = max(1, -(-found.metadata.num_rows // most))
            chosen = sorted({*range(0, groups, step), groups - 1}) if groups else []
            self.whole = self.whole and step == 1
            for batch in found.iter_batches(
                1 << 18, row_groups=chosen, columns=self.names, use_threads=not file.is_remote
            ):
                yield {name: text_of_column(batch.column(name)) for name in self.names}

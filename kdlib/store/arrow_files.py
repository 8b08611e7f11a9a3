"""An output folder in an object store as a file system of Arrow, as Ray needs it."""

from pathlib import Path
from typing import Any

from pyarrow import PythonFile
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

from kdlib.store.mirror import Mirror


def arrow_path(mirror: Mirror, path: Path) -> str:
    """Where a file or folder of the output folder lies in `arrow_files`. It begins with the bucket."""
    return f"{mirror.folder.url.partition('://')[2]}/{mirror.name(path)}"


def arrow_files(mirror: Mirror) -> FileSystem:
    """The file system. It pickles without credentials: each process takes them from its own environment."""
    return PyFileSystem(_Handler(mirror.folder.file_system()))


class _Handler(FSSpecHandler):
    def open_output_stream(self, path: str, metadata: Any) -> PythonFile:
        """A stream that takes Arrow's buffers. `obstore` refuses them, since they are of signed bytes."""
        stream = self.fs.open(path, mode="wb")
        write = stream.write
        stream.write = lambda data: write(memoryview(data).cast("B"))
        return PythonFile(stream, mode="w")

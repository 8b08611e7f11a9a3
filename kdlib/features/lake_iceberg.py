"""The live files of an Apache Iceberg table, by the package `pyiceberg`, without a catalog."""

import re
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from kdlib.errors import ConfigError, InputError, extra_hint
from kdlib.features.lake_snapshot import Snapshot

_METADATA = re.compile(r"v?(\d+)\S*\.metadata\.json")


def iceberg_snapshot(path: str) -> Snapshot:
    """The table at a path, as it is now; see `kdlib.features.lake.snapshot`.

    The path is a metadata file, or the table's folder. In a folder, `version-hint.text` names the metadata file; without
    it, the file with the highest number counts.
    """
    try:
        from pyiceberg.table import StaticTable
    except ImportError:
        raise ConfigError(
            f"input format iceberg needs pyiceberg, which is not installed here: install {extra_hint('iceberg')}"
        ) from None
    metadata = path if path.endswith(".metadata.json") else _newest_metadata(path)
    try:
        table = StaticTable.from_metadata(metadata)
        now = table.current_snapshot()
        tasks = [*table.scan().plan_files()] if now else []
        schema = table.schema().as_arrow()
    except Exception as error:  # pyiceberg has no common class of errors
        raise InputError(
            f"cannot read the Iceberg table {path}: {str(error).splitlines()[0]}. Check {metadata} and this machine's"
            " access to it and to the table's folder"
        ) from None
    _check_readable(table, tasks, path)
    return Snapshot(
        version=f"{now.snapshot_id if now else 0}.{table.schema().schema_id}.{table.metadata.table_uuid}",
        schema=schema,
        files={task.file.file_path: _partition(table, task.file, schema) for task in tasks},
    )


def _newest_metadata(path: str) -> str:
    """Path or URL of the newest metadata file in a table's folder."""
    folder = f"{path.rstrip('/')}/metadata"
    try:
        system, base = pafs.FileSystem.from_uri(folder) if "://" in folder else (pafs.LocalFileSystem(), folder)
        names = {info.base_name for info in system.get_file_info(pafs.FileSelector(base))}
        hint = ""
        if "version-hint.text" in names:
            with system.open_input_file(f"{base}/version-hint.text") as stream:
                hint = stream.read().decode().strip()
    except (OSError, ValueError):
        names, hint = set(), ""
    if hinted := {hint, f"v{hint}.metadata.json", f"{hint}.metadata.json"} & names:
        return f"{folder}/{hinted.pop()}"
    numbers = {name: int(found[1]) for name in names if (found := _METADATA.fullmatch(name))}
    newest = sorted(name for name, number in numbers.items() if number == max(numbers.values()))
    if not newest:
        raise InputError(
            f"{path} is no Iceberg table: expected a folder with metadata/….metadata.json, or the path of this file."
            " Check the path, or set another format"
        )
    if len(newest) > 1:
        raise InputError(
            f"the Iceberg table {path} has two newest metadata files: {', '.join(newest)}. Give the path of the one that"
            " its catalog names (metadata_location)"
        )
    return f"{folder}/{newest[0]}"


def _check_readable(table: Any, tasks: list[Any], path: str) -> None:
    """Raise InputError where the Parquet files alone do not give the rows."""
    if any(task.delete_files for task in tasks):
        raise InputError(
            f"the Iceberg table {path} has delete files: its Parquet files still hold deleted rows. Rewrite them with"
            " the procedure rewrite_data_files, with delete-file-threshold 1"
        )
    if other := {task.file.file_format.value for task in tasks} - {"PARQUET"}:
        raise InputError(f"the Iceberg table {path} has {', '.join(other)} files: expected Parquet. Rewrite them")
    schema = table.schema()
    for earlier in table.schemas().values():
        before = {earlier.find_column_name(number): number for number in earlier.field_ids}
        for number in schema.field_ids:
            name = schema.find_column_name(number)
            if before.get(name, number) != number or earlier.find_column_name(number) not in (None, name):
                raise InputError(
                    f"the Iceberg table {path} had another column {name}, or this column under another name, so"
                    " Spark would misread older files. Give a copy of the table: CREATE TABLE … AS SELECT"
                )


def _partition(table: Any, file: Any, schema: pa.Schema) -> dict[str, Any]:
    """Partition column → the value that all rows of a file have. Transformed columns, such as days of a time, are left out."""
    from pyiceberg.transforms import IdentityTransform

    found = {}
    for place, field in enumerate(table.specs()[file.spec_id].fields):
        name = table.schema().find_column_name(field.source_id)
        if name and isinstance(field.transform, IdentityTransform):
            found[name] = _from_number(file.partition[place], schema.field(name).type)
    return found


def _from_number(value: Any, type_: pa.DataType) -> Any:
    """A day or a time from its number in Iceberg's metadata. Any other value stays as it is."""
    if isinstance(value, int) and pa.types.is_temporal(type_):
        return pa.array([value], pa.int32() if type_.bit_width == 32 else pa.int64()).view(type_)[0].as_py()
    return value

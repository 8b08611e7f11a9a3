"""The paths of the command line → sources: files of one form that a run can read together."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch

from kdlib.errors import InputError
from kdlib.onboarding.columns import Doubt
from kdlib.onboarding.files import File, Listing, listing, spread
from kdlib.onboarding.forms import Form, form_of
from kdlib.onboarding.sample import Source, sampled
from kdlib.onboarding.words import type_of_file

MOST_LOOKED_AT = 40
"""Of a folder's files, so many are opened to see whether all have one form."""
DAY = r"\d{4}-\d{2}-\d{2}"


def find_sources(paths: Sequence[str]) -> tuple[list[Source], list[Doubt]]:
    """A sample of each source that the paths name, and what to check about them.

    Raises:
      InputError: a path names nothing, or a file cannot be read. In a folder, only if none of its files can be read.
    """
    sources, doubts = [], []
    listings = [listing(path) for path in dict.fromkeys(paths)]
    single = [listed for listed in listings if _is_file(listed)]
    sources += _alike_together([listed.files[0] for listed in single])
    for listed in (one for one in listings if one not in single):
        path = listed.path
        if not listed.complete:
            doubts.append(
                Doubt(
                    "input.events.path", f"{path} names more than {len(listed.files):,} files; the first were looked at"
                )
            )
        found, more = _table(listed) if listed.format else _groups(listed)
        sources += found
        doubts += more
    doubts += [Doubt("input", note) for source in sources for note in source.notes]
    for source in sources:
        if source.bad_rows:
            rows = source.num_rows + source.bad_rows
            doubts.append(
                Doubt(
                    "input", f"{source.bad_rows:,} of {rows:,} rows of {source.name} do not parse and are quarantined"
                )
            )
    return sources, doubts


def days_path(source: Source) -> str | None:
    """The source's path with `{day}` in place of the day, where each file's name has its day; None elsewhere."""
    if len(source.files) < 2 or os.path.isfile(source.path):
        return None
    forms = {re.sub(DAY, "{day}", file.path) for file in source.files}
    folders = {form.partition("{day}")[0] for form in forms}
    ends = {form.partition("{day}")[2].partition("/") for form in forms}
    if len(folders) > 1 or any(form.count("{day}") != 1 for form in forms):
        return None
    if all(slash for _, slash, _ in ends):
        return f"{folders.pop()}{{day}}" if len({end for end, _, _ in ends}) == 1 else None
    return forms.pop() if len(forms) == 1 else None


def _table(listed: Listing) -> tuple[list[Source], list[Doubt]]:
    """The source of a Delta or Iceberg table: a sample of its Parquet files, which may hold rows of old versions."""
    files = tuple(file for file in listed.files if file.name.endswith(".parquet"))
    if not files:
        raise InputError(
            f"{listed.path} is the folder of a {listed.format} table without Parquet files. Check the path"
        )
    source = sampled(listed.path, files, Form("parquet"), complete=False)
    return [replace(source, form=Form(listed.format or ""))], []


def _is_file(listed: Listing) -> bool:
    return len(listed.files) == 1 and listed.files[0].path == listed.path


def _alike_together(files: Sequence[File]) -> list[Source]:
    """The sources of single files. Files of one folder and one form are one source, as a shell's glob gives them."""
    groups: dict[tuple[str, Form, str | None], list[File]] = {}
    for file in files:
        form = form_of(file)
        alone = file.path if form.format == "sequences" else os.path.dirname(file.path)
        groups.setdefault((alone, form, type_of_file(file.name)), []).append(file)
    sources = []
    for (folder, form, _), own in groups.items():
        path = own[0].path if len(own) == 1 else _path_of(own, listing(folder).files) or _path_of_each(own)
        sources.append(sampled(path or own[0].path, tuple(own), form))
    return sources


def _groups(listed: Listing) -> tuple[list[Source], list[Doubt]]:
    """The files of a path by their form. One form for all: the path itself is the source."""
    forms: dict[File, Form] = {}
    refused: dict[File, InputError] = {}
    for file in spread(listed.files, MOST_LOOKED_AT):
        try:
            forms[file] = form_of(file)
        except InputError as error:
            refused[file] = error
    if not forms:
        raise next(iter(refused.values()))
    different = list(dict.fromkeys((form, type_of_file(file.name)) for file, form in forms.items()))
    doubts = [
        Doubt("input", f"{file.name} is left out: {str(error).removeprefix(file.path).strip()}")
        for file, error in list(refused.items())[:5]
    ]
    if len(different) == 1 and not refused:
        form = next(iter(forms.values()))
        return [sampled(listed.path, listed.files, form, complete=listed.complete)], doubts
    sources = []
    for form, type_ in different:
        own = tuple(file for file, other in forms.items() if (other, type_of_file(file.name)) == (form, type_))
        path = _path_of(own, listed.files)
        if path is None and len(forms) + len(refused) == len(listed.files):
            path = _path_of_each(own)
        if path is None:
            doubts.append(
                Doubt(
                    "input",
                    f"{len(own)} files such as {own[0].name} are left out: no pattern names them without other files of"
                    f" {listed.path}. Move them into a folder of their own",
                )
            )
            continue
        files = tuple(file for file in listed.files if _named_by(path, file)) or own
        try:
            sources.append(sampled(path, files, form, complete=listed.complete))
        except InputError as error:
            doubts.append(Doubt("input", f"{own[0].name} is left out: {error}"))
    if not sources:
        raise InputError(f"no file of {listed.path} can be used: {doubts[0].text}")
    return sources, doubts


def _path_of(own: Sequence[File], everything: Sequence[File]) -> str | None:
    """A path that names these files and no other: a file, a folder, or a folder with an ending; None without one."""
    if len(own) == 1:
        return own[0].path
    scheme, slashes, _ = own[0].path.rpartition("://")
    folders = [os.path.dirname(file.path).removeprefix(scheme + slashes) for file in own]
    folder = scheme + slashes + os.path.commonpath(folders)
    start = re.match(r"[^\W\d]*", own[0].name)
    end = os.path.splitext(own[0].name)[1]
    for path in (folder, f"{folder}/*{end}", f"{folder}/{start[0] if start else ''}*"):
        if {file for file in everything if _named_by(path, file)} == set(own):
            return path
    return None


def _path_of_each(own: Sequence[File]) -> str | None:
    """A path that names each file of one folder; None for files of several folders."""
    folders = {os.path.dirname(file.path) for file in own}
    return f"{folders.pop()}/{{{','.join(file.name for file in own)}}}" if len(folders) == 1 else None


def _named_by(path: str, file: File) -> bool:
    if "*" in path:
        return os.path.dirname(path) == os.path.dirname(file.path) and fnmatch(file.path, path)
    return file.path.startswith(path + "/")

"""Old runs are removed at promotion, on runs published by hand."""

import errno
import re
import shutil
from pathlib import Path
from typing import Any

from kdlib.release import delivery, promotions
from tests.jobs.handmade import DAYS, put_night, root_of, run


def test_an_old_night_that_cannot_be_removed_is_a_warning(config, last_steps, monkeypatch, capfd):
    """On NFS an open file keeps its folder.

    The new run is delivered before the removal, and the next promotion tries again.
    """
    home, remove, url = root_of(config) / "_versions", shutil.rmtree, f"file://{config.parent}/there"
    delivered: list[delivery.Delivered | None] = []

    def kept_by_a_reader(path: Path, **more: Any) -> None:
        if any(name in str(path) for name in (f"recommendations.{DAYS[0]}", f"recommendations/ds={DAYS[0]}")):
            (path / "manifest.json").unlink()
            delivered.append(delivery.delivered(url))
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path / "data"))
        remove(path, **more)

    monkeypatch.setattr(shutil, "rmtree", kept_by_a_reader)
    for ds in DAYS:
        put_night(config, ds)
        assert last_steps(ds) == 0, capfd.readouterr().err
    assert [night and night.ds for night in delivered] == [DAYS[2]]
    printed = capfd.readouterr().out
    told = re.search(
        r"promote: warning: not removed: (\S+) \(Directory not empty\)\. The next promotion tries", printed
    )
    assert told is not None
    assert f"removed 1 old runs, {DAYS[0]} to {DAYS[0]}" in printed
    assert Path(told[1]).is_dir()
    assert sorted(path.name[:13] for path in (home / "recommendations").iterdir()) == [f"ds={ds}" for ds in DAYS[1:]]
    monkeypatch.undo()
    assert run("promote", config, "--ds", DAYS[2]) == 0
    assert not Path(told[1]).exists()


def test_a_removal_that_cannot_be_noted_is_not_begun(config, last_steps, monkeypatch, capfd):
    """Later runs would continue from a run without files that is not marked. The new run still ends with 0."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "_promotions/removed")

    monkeypatch.setattr(promotions, "mark_removed", refused)
    for ds in DAYS:
        put_night(config, ds)
        assert last_steps(ds) == 0, capfd.readouterr().err
    assert "promote: warning: old runs are not removed: [Errno 13] Permission denied" in capfd.readouterr().out
    assert len(list((root_of(config) / "_versions" / "recommendations").iterdir())) == len(DAYS)


def test_old_nights_go_also_where_the_new_one_cannot_be_delivered(config, last_steps, capfd):
    """A place that is down for weeks does not fill the disk."""
    pointer = config.parent / "there" / delivery.POINTER
    for ds, status in zip(DAYS, (0, 0, 74), strict=True):
        put_night(config, ds)
        if status:
            pointer.write_text("{}")
        assert last_steps(ds) == status, capfd.readouterr().err
    assert not list((root_of(config) / "_versions" / "recommendations").glob(f"ds={DAYS[0]}*"))

"""Which run the pages show."""

from pathlib import Path

import pytest

from kdlib.errors import InputError
from kdlib.explore.run import LISTS, find_run, lists_before
from kdlib.release import promotions
from kdlib.store import partitions
from tests.explore.made_shop import BEFORE, DS, put


def _put(root: Path, ds: str, *, promoted: bool, rows: int = 0) -> None:
    row = {"user_id": "u", "item_ids": [], "scores": [], "source": "model", "model_version": "m", "generated_at": 0}
    put(root, LISTS, ds, [row] * rows)
    if promoted:
        versions = {LISTS: partitions.manifest_of(root, LISTS, ds).version}
        promotions.promote(root, ds, versions)


def test_a_page_follows_the_run_in_use(tmp_path: Path) -> None:
    """Without a date each request finds the run in use, and a run that was found before the switch keeps its tables."""
    for ds in (BEFORE, DS):
        _put(tmp_path, ds, promoted=True)
    found = find_run(tmp_path, ds=None, day="2020-01-01")
    promotions.rollback(tmp_path, BEFORE)
    assert (found.ds, found.in_use) == (DS, True)
    assert f"ds={DS}" in str(found.folder(LISTS))
    assert found.folder(LISTS).is_dir()
    assert find_run(tmp_path, ds=None, day="2020-01-01").ds == BEFORE
    of_day = find_run(tmp_path, ds=DS, day="2020-01-01")
    assert (of_day.ds, of_day.in_use) == (DS, False)


def test_a_run_that_was_built_anew_is_not_in_use(tmp_path: Path) -> None:
    """With a date, a page shows what is published for the date, and says whether this run is in use."""
    _put(tmp_path, DS, promoted=True)
    assert find_run(tmp_path, ds=DS, day=DS).in_use
    _put(tmp_path, DS, promoted=False, rows=1)
    assert not find_run(tmp_path, ds=DS, day=DS).in_use
    assert find_run(tmp_path, ds=None, day=DS).in_use
    assert find_run(tmp_path, ds=None, day=DS).folder(LISTS) != find_run(tmp_path, ds=DS, day=DS).folder(LISTS)


def test_the_list_before_is_the_promoted_one(tmp_path: Path) -> None:
    """The last promoted lists come before later unpromoted lists, which count only without promotions."""
    _put(tmp_path, "2026-11-20", promoted=False)
    _put(tmp_path, DS, promoted=False)
    found = find_run(tmp_path, ds=DS, day=DS)
    assert lists_before(found) == ("2026-11-20", partitions.current(tmp_path, LISTS, "2026-11-20"))
    _put(tmp_path, "2026-11-19", promoted=True)
    before = lists_before(found)
    assert before is not None
    assert before[0] == "2026-11-19"
    assert lists_before(find_run(tmp_path, ds="2026-11-19", day=DS)) is None


def test_nothing_published_is_an_error(tmp_path: Path) -> None:
    """The error names the date, the folder and the command to run, or the missing table."""
    with pytest.raises(InputError, match=rf"nothing is published for {DS} under .*run `distilrec nightly` first"):
        find_run(tmp_path, ds=None, day=DS)
    _put(tmp_path, DS, promoted=True)
    with pytest.raises(InputError, match=rf"the run of {DS} under .* has no histories: run `distilrec nightly`"):
        find_run(tmp_path, ds=None, day=DS).folder("histories")

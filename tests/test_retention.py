"""What no night needs any more is removed, and nothing else; more of it in `test_promotions.py`."""

from pathlib import Path

import pytest

from kdlib import promotions
from kdlib.retention import remove_old_nights
from tests.test_promotions import DAYS, put_and_promote


@pytest.mark.parametrize("busy", DAYS[1:3])
def test_the_night_that_a_running_backfill_goes_on_from_stays(tmp_path: Path, busy: str) -> None:
    """It is looked up when the run begins and again when it trains: between the two it must not go, nor count as removed."""
    put_and_promote(tmp_path, *DAYS)
    before = promotions.last_night(tmp_path, before=busy, holding="models/student")
    assert before is not None
    remove_old_nights(tmp_path, keep=2, before=DAYS[4], busy={busy})
    assert promotions.last_night(tmp_path, before=busy, holding="models/student") == before
    for name in before.versions:
        assert promotions.folder_of(tmp_path, before, name).is_dir()
    remove_old_nights(tmp_path, keep=2, before=DAYS[4])
    assert promotions.last_night(tmp_path, before=busy, holding="models/student") is None

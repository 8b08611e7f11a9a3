"""A user who was erased from the output folder leaves the delivered files too."""

import json

import pytest

from kdlib.errors import DeliveryError
from kdlib.privacy import forgetting
from kdlib.release import delivery, promotions
from tests.release.deliveries import USERS, both, files_naming, folders_at, formats, put, refuse, users_at


def _deliver_two_nights_and_forget(home, url, send):
    """Deliver two runs, erase the user u7 from the output folder, and deliver with `keep` 0."""
    for day in (1, 2):
        put(home, f"2026-11-0{day}", day)
        send(home, url, keep=5)
    forgetting.erase(home, ["u7"])
    send(home, url, keep=0)


def test_a_forgotten_user_leaves_every_delivered_file(home, url):
    """No file at the place names the user, although the versions keep their names in the output folder."""
    _deliver_two_nights_and_forget(home, url, delivery.deliver)
    users = delivery.read(url, "recommendations").to_table()["user_id"].to_pylist()
    assert sorted(users) == sorted({f"u{one}" for one in range(USERS)} - {"u7"})
    assert len(folders_at(url)) == 1


@formats
def test_a_forgotten_user_leaves_the_files_of_another_format(home, url, first, then, left, monkeypatch):
    """Files of the earlier format go at once, or the delivery is an error and the pointer says so."""
    put(home, "2026-11-01", 1)
    first(home, url, keep=5)
    forgetting.remember_to_forget(home, ["u7"])
    forgetting.erase(home, ["u7"])
    step = "remove_folders" if then is delivery.deliver_delta else "remove_delta_tables"
    monkeypatch.setattr(delivery, step, refuse)
    with pytest.raises(DeliveryError, match="name a forgotten user"):
        then(home, url, keep=0)
    found = delivery.delivered(url)
    assert found is not None
    assert (found.erased, bool(found.files)) == (None, then is delivery.deliver)
    monkeypatch.undo()
    then(home, url, keep=5)
    assert not files_naming(url, "u7")
    assert files_naming(url, "u1")


@both
@pytest.mark.parametrize("later", ["deliver", "the next night", "rollback"])
def test_a_forgotten_user_leaves_with_the_next_delivery(home, url, send, later):
    """If `forget` could not reach the place, the next delivery of any kind removes the user."""
    for day in (1, 2):
        put(home, f"2026-11-0{day}", day)
        send(home, url, keep=5)
    assert files_naming(url, "u7")
    forgetting.remember_to_forget(home, ["u7"])
    forgetting.erase(home, ["u7"])
    if later == "the next night":
        put(home, "2026-11-03", 3, users=5)
    elif later == "rollback":
        promotions.rollback(home, "2026-11-01")
    send(home, url, keep=5)
    assert not files_naming(url, "u7")
    assert files_naming(url, "u1")


@both
def test_files_that_have_changed_at_home_leave(home, url, send):
    """Files that changed in the output folder are replaced, even if the list of forgotten users did not change."""
    put(home, "2026-11-01", 1)
    send(home, url, keep=5)
    forgetting.erase(home, ["u7"])
    send(home, url, keep=5)
    assert not files_naming(url, "u7")


@both
def test_a_user_in_an_earlier_night_alone_is_forgotten_too(home, url, send):
    """The user leaves the files of an earlier run, although the run in use never had the user and is unchanged."""
    put(home, "2026-11-01", 1)
    send(home, url, keep=5)
    put(home, "2026-11-02", 2, users=5)
    send(home, url, keep=5)
    assert files_naming(url, "u7")
    forgetting.remember_to_forget(home, ["u7"])
    forgetting.erase(home, ["u7"])
    send(home, url, keep=5)
    assert not files_naming(url, "u7")


@both
def test_nothing_leaves_while_nobody_is_forgotten_anew(home, url, send):
    """Users who were forgotten before the last delivery do not remove earlier runs."""
    put(home, "2026-11-01", 1)
    forgetting.remember_to_forget(home, ["u7"])
    forgetting.erase(home, ["u7"])
    for day in (1, 2, 3):
        put(home, f"2026-11-0{day}", day)
        send(home, url, keep=5)
    assert len({path.split("ds=")[1][:10] for path in delivery.place(url).files() if "/ds=" in path}) == 3


@both
def test_a_place_of_an_earlier_version_is_taken_over(home, tmp_path, send):
    """A pointer without owner and forgotten users, or no pointer at all, is accepted, and forgotten users leave."""
    url = f"file://{tmp_path}/there"
    put(home, "2026-11-01", 1)
    send(home, url, keep=5)
    pointer = tmp_path / "there" / "promoted.json"
    before = json.loads(pointer.read_text())
    pointer.unlink()
    if send is delivery.deliver:
        pointer.write_text(json.dumps({key: before[key] for key in ("ds", "number", "versions", "files")}))
    forgetting.remember_to_forget(home, ["u7"])
    forgetting.erase(home, ["u7"])
    put(home, "2026-11-02", 2, users=5)
    assert send(home, url, keep=5).ds == "2026-11-02"
    assert not files_naming(url, "u7")


def test_delta_tables_forget(home, url):
    """No file of a Delta table names the user: the run in use has lost the row, older runs are gone."""
    _deliver_two_nights_and_forget(home, url, delivery.deliver_delta)
    users = [user for users in users_at(url).values() for user in users]
    assert "u7" not in users
    assert sorted(users) == sorted([f"u{one}" for one in range(USERS) if one != 7])

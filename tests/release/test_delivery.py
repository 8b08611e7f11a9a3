"""The tables of the run in use are copied to a place, and its readers find one whole run at any moment."""

import json
import threading

import numpy as np
import pytest

from kdlib.errors import DeliveryError
from kdlib.privacy import forgetting
from kdlib.release import delivery, promotions
from kdlib.store import leases
from kdlib.store.folders import DiskFolder
from tests.release.deliveries import (
    USERS,
    both,
    files_naming,
    folders_at,
    formats,
    marks,
    newest_of_delta,
    put,
    put_with_export,
    refuse,
)


def test_what_is_in_use_is_what_others_read(home, url, monkeypatch):
    """A reader finds exactly the run's rows, the pointer holds its version, and a second delivery sends nothing."""
    night = put(home, "2026-11-22", 1)
    done = delivery.deliver(home, url, keep=5)
    assert marks(url) == (USERS, {1})
    assert done == delivery.delivered(url)
    assert (done.ds, done.versions) == ("2026-11-22", night.versions)
    monkeypatch.setattr(type(delivery.place(url)), "upload", refuse)
    monkeypatch.setattr(delivery, "write_pointer", refuse)
    assert delivery.deliver(home, url, keep=5) == done


@pytest.mark.parametrize("deliveries", [20, pytest.param(200, marks=pytest.mark.faults)])
def test_a_reader_finds_whole_nights_only(home, url, deliveries):
    """A reader finds one whole run during all deliveries: never a mix, never a gap."""
    put(home, "2026-01-01", -1)
    delivery.deliver(home, url, keep=5)
    ended, seen = threading.Event(), []

    def look():
        while not ended.is_set():
            try:
                seen.append(marks(url))
            except Exception as error:
                seen.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(deliveries):
        put(home, str(np.datetime64("2026-01-02") + number), number, users=USERS + number)
        delivery.deliver(home, url, keep=5)
    ended.set()
    reader.join()
    assert len(seen) > deliveries / 10
    odd = [one for one in seen if isinstance(one, Exception) or len(one[1]) != 1 or one[0] != USERS + max(0, *one[1])]
    assert not odd, odd[0]
    assert len({mark for _, (mark,) in seen}) > deliveries / 20


def test_old_nights_leave_the_place(home, url):
    """The newest runs stay, the run in use, and the run that was in use before; the others go."""
    for day in range(1, 7):
        put(home, f"2026-11-0{day}", day)
        delivery.deliver(home, url, keep=2)
    assert [name[:13] for name in folders_at(url)] == ["ds=2026-11-05", "ds=2026-11-06"]
    promotions.rollback(home, "2026-11-03")
    delivery.deliver(home, url, keep=2)
    assert marks(url) == (USERS, {3})
    assert "ds=2026-11-06" in [name[:13] for name in folders_at(url)]  # a reader may still have it open


@formats
def test_what_another_format_left_goes_with_the_second_delivery(home, url, first, then, left):
    """The files of the first format stay for one more delivery; somebody else's table of the same name stays."""
    put(home, "2026-11-01", 1)
    first(home, url, keep=5)
    place = delivery.place(url)
    place.write("search_rankings/_delta_log/00000.json", b"{}", over=None)

    def there():
        return " ".join(f"/{path}" for path in place.files())

    put(home, "2026-11-02", 2)
    then(home, url, keep=5)
    assert left in there()
    put(home, "2026-11-03", 3)
    then(home, url, keep=5)
    assert left not in there()
    assert "search_rankings/_delta_log/00000.json" in there()
    assert (marks(url) if then is delivery.deliver else newest_of_delta(url))[-1] == {3}


@both
def test_the_export_is_delivered_as_files(home, tmp_path, send):
    """With both formats the pointer names the export's files. Old ones go, a rollback brings its own, none is left in the end."""
    url = f"file://{tmp_path}/there"
    place = delivery.place(url)

    def there():
        return sorted({path.split("/")[2][:13] for path in place.files("_versions/export")})

    def content(file):
        found = place.read(file["path"])
        assert found is not None
        return found.data

    for day in range(1, 5):
        put_with_export(home, f"2026-11-0{day}", day)
        done = send(home, url, keep=2)
        files = {file["path"].partition(".")[2].partition("/")[2]: file for file in done.files["export"]}
        assert set(files) == {"encoder.onnx", "items/items.parquet"}
        for name, file in files.items():
            assert content(file) == (home / "promoted" / "export" / name).read_bytes()
            assert len(content(file)) == file["bytes"]
    assert (list(done.files) == ["export"]) == (send is delivery.deliver_delta)
    assert there() == ["ds=2026-11-03", "ds=2026-11-04"]
    promotions.rollback(home, "2026-11-03")
    assert content(send(home, url, keep=2).files["export"][0]) == b"graph 3"
    for day in range(5, 8):
        put(home, f"2026-11-0{day}", day)
        assert "export" not in send(home, url, keep=1).files
    assert there() == []


@both
def test_old_files_that_stay_are_said(home, url, send, monkeypatch):
    """Old files that cannot be removed are a warning; after a user was erased they are an error until they are gone."""
    put(home, "2026-11-01", 1)
    send(home, url, keep=1)
    put(home, "2026-11-02", 2)
    step = "remove_folders" if send is delivery.deliver else "vacuum"
    works = getattr(delivery, step)
    monkeypatch.setattr(delivery, step, refuse)
    said = []
    assert send(home, url, keep=1, warn=said.append).ds == "2026-11-02"
    [text] = said
    assert f"2026-11-02 is in use at {url}" in text
    assert "AWS Error ACCESS_DENIED. The next delivery tries again" in text
    forgetting.erase(home, ["u7"])
    for keep in (0, 5, 5):
        with pytest.raises(DeliveryError, match=r"2026-11-02 is in use at .*older files.*name a forgotten user"):
            send(home, url, keep=keep)
    monkeypatch.setattr(delivery, step, works)
    send(home, url, keep=5)
    assert not files_naming(url, "u7")


@both
def test_the_night_that_came_into_use_meanwhile_is_delivered(home, url, send, monkeypatch):
    """If another run is promoted while files are sent, that run is in use at the place in the end."""
    put(home, "2026-11-01", 1)
    step, steps = "commit" if send is delivery.deliver_delta else "send", []
    first = getattr(delivery, step)

    def slow(*arguments, **settings):
        if not steps:
            steps.append(put(home, "2026-11-02", 2))
        return first(*arguments, **settings)

    monkeypatch.setattr(delivery, step, slow)
    done = send(home, url, keep=5)
    monkeypatch.undo()
    assert done == delivery.delivered(url)
    assert done.ds == "2026-11-02"
    assert (newest_of_delta(url) if send is delivery.deliver_delta else marks(url))[-1] == {2}


@both
def test_deliveries_wait_for_each_other(home, tmp_path, send, monkeypatch):
    """The second delivery begins when the first has ended; if the first never ends, the second is an error."""
    put(home, "2026-11-01", 1)
    url = f"file://{tmp_path}/there"
    begun, ended = threading.Event(), threading.Event()

    def other() -> None:
        with leases.held(DiskFolder(home, durable=False), delivery.LEASE, "deliver"):
            begun.set()
            ended.wait(60)

    monkeypatch.setattr(leases, "TERM_SECONDS", 2.0)
    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(30)
    monkeypatch.setattr(delivery, "WAIT_SECONDS", 0.3)
    with pytest.raises(DeliveryError, match=r"another delivery .* 0\.3 s \(deliver, process .*distilrec deliver"):
        send(home, url, keep=5)
    assert not (tmp_path / "there").exists()
    monkeypatch.setattr(delivery, "WAIT_SECONDS", 30)
    threading.Timer(0.5, ended.set).start()
    assert send(home, url, keep=5).ds == "2026-11-01"
    thread.join()


@both
def test_without_a_lease_nothing_is_delivered(home, tmp_path, send, monkeypatch):
    """An output folder that cannot be written is a DeliveryError: the run is in use, and its report is still made."""
    put(home, "2026-11-01", 1)
    monkeypatch.setattr(leases, "held", refuse)
    with pytest.raises(DeliveryError, match=r"cannot deliver to .*ACCESS_DENIED"):
        send(home, f"file://{tmp_path}/there", keep=5)


@both
def test_an_older_copy_of_the_output_folder_does_not_deliver(home, tmp_path, send):
    """The number of the switch says what is later: a rollback may be delivered, a copy with fewer switches may not."""
    url = f"file://{tmp_path}/there"
    for day in (1, 2):
        put(home, f"2026-11-0{day}", day)
    promotions.rollback(home, "2026-11-01")
    assert send(home, url, keep=5).ds == "2026-11-01"
    pointer = tmp_path / "there" / "promoted.json"
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"number": 4, "ds": "2026-11-03"}))
    with pytest.raises(DeliveryError, match=r"switch 4 \(to 2026-11-03\).* is 3 \(to 2026-11-01\).*older copy.*remove"):
        send(home, url, keep=5)


@both
def test_two_output_folders_do_not_share_a_place(home, tmp_path, send):
    """A second output folder is refused and removes nothing; a folder that was moved still counts as the first."""
    url, other = f"file://{tmp_path}/there", tmp_path / "other"
    put(home, "2026-11-02", 2)
    done = send(home, url, keep=5)
    put(other, "2026-11-01", 1)
    for root in (other, other):
        with pytest.raises(
            DeliveryError, match=r"delivered by the output folder output\..*is other\.\w{8}.*delivery\.url of its own"
        ):
            send(root, url, keep=5)
    assert delivery.delivered(url) == done
    assert files_naming(url, "u7")
    moved = home.rename(tmp_path / "moved")
    put(moved, "2026-11-03", 3)
    assert send(moved, url, keep=5).ds == "2026-11-03"


def test_an_upload_that_ended_early_is_done_again(home, url, monkeypatch):
    """Files of a wrong size are sent again, and the pointer does not name them before."""
    put(home, "2026-11-01", 1)
    delivery.deliver(home, url, keep=5)
    put(home, "2026-11-02", 2)
    kind = type(delivery.place(url))
    first = kind.upload

    def breaks(there, file, path):
        (home / "half").write_bytes(file.read_bytes()[:100])
        first(there, home / "half", path)

    monkeypatch.setattr(kind, "upload", breaks)
    with pytest.raises(DeliveryError, match=r"part-00000-\w+\.parquet should have \d+ bytes, and has 100"):
        delivery.deliver(home, url, keep=5)
    assert marks(url) == (USERS, {1})
    monkeypatch.setattr(kind, "upload", first)
    delivery.deliver(home, url, keep=5)
    assert marks(url) == (USERS, {2})

"""A server follows the run in use: switches under load, damaged runs, rollbacks, the stock."""

import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from kdlib.errors import InputError
from kdlib.release import promotions
from kdlib.serving import follow
from kdlib.serving.follow import Follower
from kdlib.serving.stock import StockFile
from kdlib.store import partitions
from kdlib.store.mirror import attach
from kdlib.store.working_copy import refresh
from tests.serving import nights
from tests.serving.nights import Made

DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")
SWITCHES = 200


@pytest.fixture
def shop(tmp_path: Path) -> list[Made]:
    """Three promoted runs. Their items and their models have nothing in common; the last one is in use."""
    runs = [Made(tmp_path / "output", ds=ds, items=f"{ds}-") for ds in DAYS]
    for made in runs:
        nights.promote(made)
    return runs


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def _versions(shop: list[Made]) -> dict[str, str]:
    """Date → version of the student."""
    return {made.ds: nights.table(made)[0]["model_version"] for made in shop}


def test_two_hundred_switches_under_load(shop: list[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    """While runs are promoted and rolled back, no request fails, and each answer is of one run, which it names."""
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.001)
    versions, root = _versions(shop), shop[0].root
    answers: list[Any] = []
    done = threading.Event()
    session = [{"item": f"{ds}-{number:03}"} for ds in DAYS for number in (1, 5)]

    def ask(client: TestClient) -> None:
        while not done.wait(0.01):
            answers.append(client.post("/recommend", json={"session": session}))

    with TestClient(nights.server(root).app()) as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(SWITCHES):
            if number % 2:
                ds = DAYS[2]
                promotions.promote(root, ds, _promoted(root, ds))
            else:
                ds = DAYS[number // 2 % 2]
                promotions.rollback(root, ds)
            if number % 10 == 0:
                _until(lambda ds=ds: client.get("/health").json()["ds"] == ds)
        done.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    assert len(bodies) > 100
    for body in bodies:
        assert body["model_version"] == versions[body["ds"]]
        assert len(body["items"]) == 5
        assert all(one["item_id"].startswith(f"{body['ds']}-") for one in body["items"])
        assert all(not item.startswith(body["ds"]) for item in body["unknown_items"])
        assert len(body["unknown_items"]) == 4
    assert {body["ds"] for body in bodies} == set(DAYS)


def _promoted(root: Path, ds: str) -> dict[str, str]:
    return next(one.versions for one in reversed(promotions.history(root)) if one.ds == ds)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def follower(shop: list[Made], warnings: list[str]) -> Follower:
    """A follower that has looked once."""
    server = nights.server(shop[0].root, warn=warnings.append)
    server.follower.look()
    return server.follower


def _ds(follower: Follower) -> str:
    assert follower.night is not None
    return follower.night.used.ds


def test_a_rollback_is_followed(shop: list[Made], follower: Follower) -> None:
    """The server answers from an earlier run after a rollback, and from the later one after its promotion. No other is kept."""
    before = weakref.ref(follower.night)
    promotions.rollback(shop[0].root, DAYS[0])
    follower.look()
    assert _ds(follower) == DAYS[0]
    assert before() is None
    promotions.promote(shop[0].root, DAYS[2], _promoted(shop[0].root, DAYS[2]))
    follower.look()
    assert _ds(follower) == DAYS[2]


def test_the_same_run_is_loaded_once(shop: list[Made], follower: Follower) -> None:
    """A look at an unchanged pointer, or another switch to the same run, keeps the loaded run."""
    before = follower.night
    promotions.rollback(shop[0].root, DAYS[2])
    follower.look()
    assert follower.night is before


def test_a_switch_in_a_store_is_followed(s3: str, tmp_path: Path, warnings: list[str], monkeypatch: Any) -> None:
    """The server's working copy follows what another machine switches. While nothing changes, a look reads one object."""
    writer, reader, url = tmp_path / "writer", tmp_path / "reader", f"{s3}/{tmp_path.name}/out"
    for root in (writer, reader):
        attach(root, url)
    nights.promote(Made(writer, ds=DAYS[0], items="old"))
    follower = nights.server(reader, warn=warnings.append).follower
    follower.look()
    assert _ds(follower) == DAYS[0]
    listings = []
    monkeypatch.setattr(follow, "refresh", lambda root: (listings.append(root), refresh(root)))
    follower.look()
    assert not listings
    nights.promote(Made(writer, ds=DAYS[1], items="new"))
    follower.look()
    assert _ds(follower) == DAYS[1]
    assert len(listings) == 1
    promotions.rollback(writer, DAYS[0])
    follower.look()
    assert _ds(follower) == DAYS[0]
    assert not warnings


@pytest.mark.parametrize("damage", ["model", "gone", "record"])
def test_a_run_that_cannot_be_loaded_leaves_the_old_one(
    shop: list[Made], follower: Follower, warnings: list[str], damage: str
) -> None:
    """The old run answers on, the person is warned once, and a later good run is loaded."""
    root = shop[0].root
    switch = promotions.rollback(root, DAYS[0])
    student = partitions.version_folder(root, "models/student", DAYS[0], switch.versions["models/student"])
    if damage == "model":
        with (student / "model.safetensors").open("r+b") as file:
            file.seek(500)
            file.write(b"damage")
    elif damage == "gone":
        shutil.rmtree(student.parent)
    else:
        (promotions.record_of(root, switch) / "promotion.json").write_text("{")
    for _ in range(3):
        follower.look()
    assert _ds(follower) == DAYS[2]
    [warning] = warnings
    expected = {"model": "is damaged", "gone": "is gone", "record": "no usable record of a promotion"}
    assert expected[damage] in warning
    assert warning.endswith("; the run before goes on answering")
    assert "distilrec_serve_failures_total{" in follower.figures.text().decode()
    promotions.rollback(root, DAYS[1])
    follower.look()
    assert _ds(follower) == DAYS[1]


def test_lists_of_an_earlier_release_are_not_served(shop: list[Made], follower: Follower, warnings: list[str]) -> None:
    """A table that does not say with which rules it was made is not loaded. The text says what to do."""
    root = shop[0].root
    manifest = next((root / "_versions" / "recommendations").glob(f"ds={DAYS[0]}.*/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"made_with"', '"other"'))
    promotions.rollback(root, DAYS[0])
    follower.look()
    assert _ds(follower) == DAYS[2]
    assert f"the lists of {DAYS[0]} were made by an earlier release" in warnings[0]
    assert f"run `distilrec recommend --ds {DAYS[0]}`" in warnings[0]


def test_before_the_first_run_answers_have_status_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health and lists say that no run is loaded; once one is in use, they answer."""
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.01)
    (tmp_path / "output").mkdir()
    with TestClient(nights.server(tmp_path / "output").app()) as client:
        for answer in (client.get("/health"), client.post("/recommend", json={"session": []})):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "no run is loaded yet" in answer.json()["error"]
        nights.promote(Made(tmp_path / "output"))
        _until(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json()["ds"] == nights.DS


def _write(path: Path, items: list[str]) -> None:
    table = pa.table({"item_id": items, "since": ["today"] * len(items)})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pacsv.write_csv(table, path)
    else:
        path.write_text("\n".join([*items, "", "  "]))


@pytest.mark.parametrize("name", ["stock.txt", "stock.csv", "stock.parquet"])
def test_items_out_of_stock_are_left_out(tmp_path: Path, warnings: list[str], name: str) -> None:
    """The list has other items in their place, also after a switch; a broken or missing file keeps the last list."""
    path, root = tmp_path / name, tmp_path / "output"
    nights.promote(Made(root, ds=DAYS[0]))
    _write(path, ["item000", "unknown"])
    server = nights.server(root, stock=path, warn=warnings.append)
    server.follower.look()

    def items() -> list[str]:
        night = server.follower.night
        assert night is not None
        [answer] = night.recommend([nights.asked([])], now=1)
        assert isinstance(answer, dict)
        return [one["item_id"] for one in answer["items"]]

    assert items() == ["item001", "item002", "item003", "item004", "item005"]
    _write(path, ["item001", "item003", "0017"])
    server.follower.look()
    assert items() == ["item000", "item002", "item004", "item005", "item006"]
    nights.promote(Made(root, ds=DAYS[1]))
    path.unlink()
    server.follower.look()
    server.follower.look()
    assert _ds(server.follower) == DAYS[1]
    assert items() == ["item000", "item002", "item004", "item005", "item006"]
    [warning] = warnings
    assert warning.startswith(
        f"serve: warning: cannot read the items that are out of stock, {path} (serve.out_of_stock): "
    )
    assert "Expected one id a line, or a column item_id" in warning
    assert "; the last list stays" in warning
    assert 'what="stock"} 2.0' in server.follower.figures.text().decode()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"PAR1 no"])
def test_a_stock_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes) -> None:
    """The text names the file and what it should hold; a file that did not change is not read again."""
    for name in ("stock.txt", "stock.parquet", "stock.csv"):
        path = tmp_path / name
        path.write_bytes(b"sku\n1\n" if name.endswith("csv") else content if name.endswith("parquet") else b"\xff\xfe")
        with pytest.raises(InputError, match="cannot read the items that are out of stock"):
            StockFile(str(path)).changed()
    path = tmp_path / "good.txt"
    path.write_text("a\n b \r\nc\n")
    stock = StockFile(str(path))
    assert stock.changed() == {"a", "b", "c"}
    assert stock.changed() is None
    os.utime(path, ns=(1, 1))
    assert stock.changed() == {"a", "b", "c"}


def test_a_stock_file_may_lie_at_a_url(tmp_path: Path) -> None:
    """A URL is read again when the store has another content."""
    path = tmp_path / "stock.csv"
    path.write_text("item_id\n007\n")
    stock = StockFile(path.as_uri())
    assert stock.changed() == {"007"}
    assert stock.changed() is None
    path.write_text("item_id\n008\nx\n")
    assert stock.changed() == {"008", "x"}

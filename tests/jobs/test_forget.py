"""A forgotten user leaves no trace, the others lose nothing, and what is published stays whole."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.__main__ import main
from jobs.runtime import telemetry
from jobs.runtime.lock import run_lock
from jobs.runtime.pseudonym_key import checked_key
from kdlib.config.load import load_config
from kdlib.errors import ConfigError
from kdlib.privacy import forgetting
from kdlib.privacy.pseudonyms import key_check, pseudonym
from kdlib.release import promotions
from kdlib.report.content import Night
from kdlib.store import partitions

DS, USER, OTHER = "2026-11-22", "anna.k", "bruno"
KEY = "0123456789abcdef0123456789abcdef"


def put(root: Path, name: str, table: pa.Table, **details: Any) -> partitions.Manifest:
    staging = partitions.new_staging(root, name, DS)
    pq.write_table(table, staging / "part.parquet")
    return partitions.publish(staging, root, name, DS, fingerprint=str(len(table)), details=details)


def put_store(root: Path, user: str) -> None:
    """Tables of two users, an older version that nobody reads, a report, a log and a run's left-over."""
    put(root, "recommendations", pa.table({"user_id": [user], "item_ids": [["a"]]}))
    put(root, "recommendations", pa.table({"user_id": [OTHER, user], "item_ids": [["a"], ["b"]]}))
    put(root, "teacher_targets", pa.table({"user_id": [user, user, OTHER], "start": [0, 50, 0]}))
    raw = [json.dumps({"u": user, "i": "x"}), f"{user},x", json.dumps({"u": OTHER, "i": f"x{user}"}), f"x{user}y,z"]
    put(root, "quarantine", pa.table({"reason": ["bad_time", "corrupt_row"] * 2, "raw": raw}))
    staging = partitions.new_staging(root, "reports", DS)
    (staging / "index.html").write_text(f"<h3>User {user}</h3>")
    partitions.publish(staging, root, "reports", DS, fingerprint="f")
    (root / "logs").mkdir()
    (root / "logs" / "evaluate.log").write_text(f"started\nuser {user} has a score\nended\n")
    pq.write_table(pa.table({"user_id": [user]}), partitions.new_staging(root, "sessions", DS) / "half.parquet")


def config_for(folder: Path, **privacy: str) -> Path:
    path = folder / "run.yaml"
    document = {"name": "n", "ds": DS, "output_dir": str(folder / "out"), "input": {"simulate": {}}, "privacy": privacy}
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("private", [False, True])
def test_no_trace_is_left_and_others_keep_their_rows(tmp_path, capfd, private):
    """All versions, caches, quarantine, reports and logs lose the user; manifests describe what is there; it is on the list."""
    root = tmp_path / "out"
    (tmp_path / "key").write_text(KEY)
    config = config_for(tmp_path, **({"key_file": str(tmp_path / "key")} if private else {}))
    stored = pseudonym(KEY.encode(), USER) if private else USER
    put_store(root, stored)
    assert len(forgetting.traces(root, [stored])) == 7
    assert main(["forget", "--config", str(config), "--user", USER]) == 0
    assert "no trace is left" in capfd.readouterr().out
    files = [path for path in root.rglob("*") if path.is_file() and "quarantine" not in str(path)]
    assert not [path for path in files if stored.encode() in path.read_bytes()]
    for name, users in (("recommendations", [OTHER]), ("teacher_targets", [OTHER])):
        folder = partitions.current(root, name, DS)
        assert pq.read_table(folder)["user_id"].to_pylist() == users
        manifest = partitions.read_manifest(root, name, DS)
        assert manifest is not None
        assert manifest.rows == len(users)
        assert manifest.files == [partitions.describe(file, folder) for file in sorted(folder.iterdir())]
    assert pq.read_table(partitions.current(root, "quarantine", DS)).num_rows == 2, (
        "an id inside another word is another's"
    )
    assert partitions.read_manifest(root, "reports", DS) is None
    assert (root / "logs" / "evaluate.log").read_text() == "started\nended\n"
    assert forgetting.forgotten(root) == [forgetting.digest(stored)]


def test_a_trace_that_is_left_is_an_error(tmp_path, monkeypatch, capfd):
    """What a run writes meanwhile is found by the search at the end, which names the file."""
    config = config_for(tmp_path)
    put_store(tmp_path / "out", USER)
    monkeypatch.setattr(forgetting, "erase", lambda root, user, **columns: {})
    assert main(["forget", "--config", str(config), "--user", USER]) == 2
    assert "7 files still name the user or cannot be read" in capfd.readouterr().err


def test_an_id_that_an_item_has_too_is_forgotten_as_a_user(tmp_path, capfd):
    """With whole numbers for users and items and columns of the shop's own, with blanks around the id as it is given."""
    config, root = config_for(tmp_path), tmp_path / "out"
    settings = yaml.safe_load(config.read_text())
    events = {"path": "x.csv", "format": "csv", "user": "customer", "item": "product", "time": {"column": "t"}}
    settings["input"] = {"events": events, "searches": {**events, "user": "who", "query": "q"}}
    config.write_text(yaml.safe_dump(settings))
    put(root, "recommendations", pa.table({"user_id": ["42", "7"], "item_ids": [["a"], ["42"]]}))
    put(root, "item_vocabulary", pa.table({"item_id": ["42", "a"]}))
    raw = [{"customer": 42, "product": 7}, {"customer": 7, "product": 42}, {"who": 42, "q": "7"}, {"who": 7, "q": "42"}]
    put(root, "quarantine", pa.table({"raw": [json.dumps(row) for row in raw]}))
    assert main(["forget", "--config", str(config), "--user", " 42"]) == 0
    assert "3 rows, lines and pages removed" in capfd.readouterr().out
    assert pq.read_table(partitions.current(root, "recommendations", DS)).to_pylist() == [
        {"user_id": "7", "item_ids": ["42"]}
    ]
    left = pq.read_table(partitions.current(root, "quarantine", DS))["raw"].to_pylist()
    assert [json.loads(row) for row in left] == [raw[1], raw[3]]


def test_no_user_is_an_error(tmp_path, capfd):
    """An empty id would stand everywhere."""
    put_store(tmp_path / "out", USER)
    assert main(["forget", "--config", str(config_for(tmp_path)), "--user", " "]) == 2
    assert "--user: expected the user's id" in capfd.readouterr().err


@pytest.mark.parametrize("words", [[], ["--ds", DS]])
def test_a_folder_without_outputs_proves_nothing(tmp_path, capfd, words):
    """The run config is another shop's, or the demo's by default: it and its folder are named, and nothing is written there."""
    config = config_for(tmp_path)
    document = yaml.safe_load(config.read_text())
    document.pop("ds")
    config.write_text(yaml.safe_dump(document))
    assert main(["forget", "--config", str(config), "--user", USER, *words]) == 2
    found = capfd.readouterr()
    assert f"no run has been made in {tmp_path}/out, the output_dir of the run config {config}" in found.err
    assert "Give the shop's own run config with --config" in found.err
    assert "no trace is left" not in found.out
    assert not (tmp_path / "out").exists()


def test_a_new_key_brings_nobody_back(tmp_path, capfd):
    """A night under another key than the list's ends before it reads, `forget` too; what to do is said, and then works."""
    keys = tmp_path / "old", tmp_path / "new"
    for path in keys:
        path.write_text(f"{KEY} {path.name}")
    config, root = config_for(tmp_path, key_file=str(keys[0])), tmp_path / "out"
    put_store(root, OTHER)
    assert main(["forget", "--config", str(config), "--user", USER]) == 0
    checked_key(load_config(config))
    for other in ({"key_file": str(keys[1]), "key_version": "2"}, {}):
        config_for(tmp_path, **other)
        with pytest.raises(ConfigError, match="forgotten under another pseudonym key than this run config has"):
            checked_key(load_config(config))
        assert main(["forget", "--config", str(config), "--user", OTHER]) == 2
        assert "events would come back. Set the key as it was; or remove that file" in capfd.readouterr().err
    (root / forgetting.LIST).unlink()
    assert main(["forget", "--config", str(config), "--user", USER]) == 0
    checked_key(load_config(config))


def test_nights_of_another_key_are_named(tmp_path, capfd):
    """There the user's pseudonym cannot be made, so that nothing is proved of them."""
    (tmp_path / "key").write_text(KEY)
    config, root = config_for(tmp_path, key_file=str(tmp_path / "key")), tmp_path / "out"
    made = {"key_version": 1, "check": key_check(KEY.encode())}
    put(root, "histories", pa.table({"user_id": ["a"]}), pseudonyms=made)
    assert main(["forget", "--config", str(config), "--user", USER]) == 0
    assert "warning" not in capfd.readouterr().out
    put(root, "histories", pa.table({"user_id": ["a", "b"]}), pseudonyms=made | {"check": "00000000"})
    assert main(["forget", "--config", str(config), "--user", USER]) == 0
    assert f"forget: warning: {DS} were made with another pseudonym key" in capfd.readouterr().out


def test_a_config_that_lost_its_key_is_an_error(tmp_path, capfd):
    """Else the shop's own id would be searched for, not be found, and stand on a list that no night under the key could read."""
    config, root = config_for(tmp_path), tmp_path / "out"
    put(root, "histories", pa.table({"user_id": ["a"]}), pseudonyms={"key_version": 1, "check": "00000000"})
    assert main(["forget", "--config", str(config), "--user", "a"]) == 2
    assert f"histories of {DS} in {root} have pseudonyms, but the run config has no key" in capfd.readouterr().err
    assert not forgetting.forgotten(root)


def test_forgetting_an_unknown_user_changes_nothing_but_the_list(tmp_path, capfd):
    """No file is written anew, and whoever asked is told: the id may be mistyped."""
    config = config_for(tmp_path)
    put_store(tmp_path / "out", USER)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main(["forget", "--config", str(config), "--user", "nobody"]) == 0
    assert "no output has named the user, who is on the list from now on: is the id" in capfd.readouterr().out
    assert main(["forget", "--config", str(config), "--user", "nobody"]) == 0
    assert "no output has named the user, who was on the list before" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert forgetting.forgotten(tmp_path / "out") == [forgetting.digest("nobody")]


@pytest.mark.parametrize("form", ["parquet", "delta"])
def test_what_was_delivered_forgets_too(tmp_path, capfd, form):
    """The place where others read ends without the user, and a rollback or a rerun has nothing to bring it back from."""
    config, root, url = config_for(tmp_path), tmp_path / "out", f"file://{tmp_path}/there"
    settings = yaml.safe_load(config.read_text()) | {"delivery": {"url": url, "format": form}}
    config.write_text(yaml.safe_dump(settings))
    table = pa.table({"user_id": [OTHER, USER], "item_ids": [["a"], ["b"]]})
    promotions.promote(root, DS, {"recommendations": put(root, "recommendations", table).version})
    assert main(["deliver", "--config", str(config)]) == 0
    assert [path for path in forgetting.traces(tmp_path / "there", [USER]) if path.suffix == ".parquet"]
    assert main(["forget", "--config", str(config), "--user", USER]) == 0
    assert f"{DS}, recommendations, is in use at {url}" in capfd.readouterr().out
    files = [path for path in (tmp_path / "there").rglob("*.parquet") if "_delta_log" not in str(path)]
    assert [pq.ParquetFile(path).read()["user_id"].to_pylist() for path in files] == [[OTHER]]
    assert not [
        path for path in (tmp_path / "there").rglob("*") if path.is_file() and USER.encode() in path.read_bytes()
    ]


def test_a_user_who_stays_where_others_read_is_told(tmp_path, monkeypatch, capfd):
    """Status 74 of the last night, also where it was a good one, until the place has forgotten too."""
    config, root, there = config_for(tmp_path), tmp_path / "out", tmp_path / "there"
    more = {"delivery": {"url": f"file://{there}"}, "telemetry": {"textfile": str(tmp_path / "shop.prom")}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | more))
    monkeypatch.setattr(telemetry, "gather", lambda root, ds, *, name, k, **more: Night(name, ds, k))
    table = pa.table({"user_id": [OTHER, USER], "item_ids": [["a"], ["b"]]})
    promotions.promote(root, DS, {"recommendations": put(root, "recommendations", table).version})
    assert main(["deliver", "--config", str(config)]) == 0
    assert main(["telemetry", "--config", str(config), "--status", "0"]) == 0
    pointer = (there / "promoted.json").read_text()
    found = []
    for text in ("{}", pointer):
        (there / "promoted.json").write_text(text)
        status = main(["forget", "--config", str(config), "--user", USER])
        told = re.search(r"distilrec_night_exit_status\{.*\} (\S+)", (tmp_path / "shop.prom").read_text())
        assert told is not None
        found.append((status, float(told[1])))
    assert found == [(74, 74), (0, 0)], capfd.readouterr().err


def test_a_trace_at_home_does_not_keep_the_user_at_the_place(tmp_path, capfd):
    """What was delivered forgets first; then the error says what is left."""
    config, root, url = config_for(tmp_path), tmp_path / "out", f"file://{tmp_path}/there"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"delivery": {"url": url}}))
    table = pa.table({"user_id": [OTHER, USER], "item_ids": [["a"], ["b"]]})
    promotions.promote(root, DS, {"recommendations": put(root, "recommendations", table).version})
    assert main(["deliver", "--config", str(config)]) == 0
    (partitions.new_staging(root, "sessions", DS) / "half.parquet").write_bytes(b"PAR1")
    assert main(["forget", "--config", str(config), "--user", USER]) == 2
    found = capfd.readouterr()
    assert f"{DS}, recommendations, is in use at {url}" in found.out
    assert "1 files still name the user or cannot be read" in found.err
    assert "half.parquet" in found.err
    files = list((tmp_path / "there").rglob("*.parquet"))
    assert [pq.ParquetFile(path).read()["user_id"].to_pylist() for path in files] == [[OTHER]]


def test_a_run_of_another_date_is_waited_for(tmp_path, capfd):
    """It may have read the user's events before: status 75, and the user is remembered; the same command later erases."""
    config, root = config_for(tmp_path), tmp_path / "out"
    put_store(root, USER)
    with run_lock(load_config(config, ds="2026-11-23"), "nightly"):
        assert main(["forget", "--config", str(config), "--user", USER]) == 75
    assert "another run is at work on 2026-11-23" in capfd.readouterr().err
    assert forgetting.forgotten(root) == [forgetting.digest(USER)]
    assert main(["forget", "--config", str(config), "--user", USER]) == 0


def test_killed_between_manifest_and_rows_the_next_run_does_both(tmp_path, monkeypatch):
    """What is delivered is told by the manifest: it must never stay behind the rows."""
    config, root = config_for(tmp_path), tmp_path / "out"
    put_store(root, USER)
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name.endswith(".parquet.forgetting"):
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        forgetting.erase(root, [USER])
    monkeypatch.undo()
    assert main(["forget", "--config", str(config), "--user", USER]) == 0
    for name in ("recommendations", "teacher_targets", "quarantine"):
        folder, manifest = partitions.current(root, name, DS), partitions.read_manifest(root, name, DS)
        assert manifest is not None
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        assert manifest.files == [partitions.describe(file, folder) for file in files]


def test_a_folder_above_the_outputs_is_no_version(tmp_path):
    """With a manifest.json of somebody else's above it, a half-made report goes, and nothing else does."""
    (tmp_path / "manifest.json").write_text("{}")
    staged = partitions.new_staging(tmp_path / "out", "reports", DS) / "index.html"
    staged.write_text(f"<h3>User {USER}</h3>")
    forgetting.erase(tmp_path / "out", [USER])
    assert not staged.exists()
    assert (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("private", [False, True])
def test_many_users_are_forgotten_at_once(tmp_path, monkeypatch, capfd, private):
    """One id a line, from a file or standard input; blank lines, blanks and a second mention do not count."""
    root = tmp_path / "out"
    (tmp_path / "key").write_text(KEY)
    config = config_for(tmp_path, **({"key_file": str(tmp_path / "key")} if private else {}))
    users = [f"u{number}" for number in range(50)]
    stored = [pseudonym(KEY.encode(), user) if private else user for user in users]
    put(root, "recommendations", pa.table({"user_id": [*stored, OTHER], "item_ids": [["a"]] * 51}))
    (root / "logs").mkdir()
    (root / "logs" / "evaluate.log").write_text(f"started\nuser {stored[7]} has a score\nuser {OTHER}\n")
    file = tmp_path / "users.txt"
    file.write_text("\ufeff" + "\r\n".join(users[:25]) + f"\n\n  \n {users[3]} \n" + "\n".join(users[25:]))
    words = [str(file)] if not private else ["-"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(["forget", "--config", str(config), "--users-file", *words]) == 0
    printed = capfd.readouterr().out
    assert f"forget: 51 rows, lines and pages removed; {root} searched: no trace is left of the 50 users" in printed
    assert pq.read_table(partitions.current(root, "recommendations", DS))["user_id"].to_pylist() == [OTHER]
    assert (root / "logs" / "evaluate.log").read_text() == f"started\nuser {OTHER}\n"
    assert forgetting.forgotten(root) == sorted(map(forgetting.digest, stored))
    file.write_text("\n".join([*users, "u50"]))
    assert main(["forget", "--config", str(config), "--users-file", str(file)]) == 0
    assert "no output has named the 51 users: 1 are on the list from now on. Are the ids" in capfd.readouterr().out
    assert main(["forget", "--config", str(config), "--users-file", str(file)]) == 0
    assert "no output has named the 51 users, who were on the list before" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --user ID or --users-file FILE, one of the two"),
        (["--user", USER, "--users-file", "users.txt"], "expected --user ID or --users-file FILE, one of the two"),
        (
            ["--users-file", "users.txt"],
            "--users-file: expected one user's id a line, as the shop writes it, and found",
        ),
        (["--users-file", "latin.txt"], "--users-file: expected UTF-8, one user's id a line, found something else"),
        (["--users-file", "none.txt"], "none.txt"),
    ],
)
def test_a_wrong_list_of_users_is_an_error(tmp_path, monkeypatch, capfd, words, message):
    """Status 2, and nobody is forgotten."""
    monkeypatch.chdir(tmp_path)
    config, root = config_for(tmp_path), tmp_path / "out"
    put_store(root, USER)
    Path("users.txt").write_text("\n \n")
    Path("latin.txt").write_bytes("anna\nrené\n".encode("latin-1"))
    assert main(["forget", "--config", str(config), *words]) == 2
    assert message in capfd.readouterr().err
    assert forgetting.forgotten(root) == []

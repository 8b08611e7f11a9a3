"""What is a trace of a user, what only looks like one and stays, and the list of forgotten users."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.errors import ConfigError
from kdlib.privacy import forgetting
from kdlib.privacy.pseudonyms import pseudonym
from kdlib.report.people import people
from kdlib.store import partitions
from tests.report.nights import NIGHT, USER

DS, OTHER = "2026-11-22", "7"
KEY, NEW_KEY = b"0123456789abcdef0123456789abcdef", b"another-key-of-32-bytes-and-more"
PSEUDONYM = pseudonym(KEY, "anna.k")
LIKE_ANYTHING = ["42", "4711", "u9", "tom&jerry", "xüy", 'say "a"']
"""Ids that may also be items, numbers or words."""
USER_ID = "4711"
UNMISTAKABLE = ["a.b@c.de", "anna.karenina@shop.example", PSEUDONYM, "9f1c2d3e-0000-4000-8000-5a6b7c8d9e0f"]


def put(root: Path, name: str, files: dict[str, pa.Table | str]) -> Path:
    staging = partitions.new_staging(root, name, DS)
    for file, content in files.items():
        if isinstance(content, pa.Table):
            pq.write_table(content, staging / file)
        else:
            (staging / file).write_text(content)
    partitions.publish(staging, root, name, DS, fingerprint=name)
    return partitions.current(root, name, DS)


def put_log(root: Path, text: str) -> Path:
    path = root / "logs" / f"ds={DS}" / "nightly.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def page_of(*user_ids: str) -> str:
    return people(replace(NIGHT, users=tuple(replace(USER, user_id=one) for one in user_ids)))


ABSENT = [form.format(n) for n in range(20) for form in ("absent{}", "absent {}", "a{}@absent.example", "ab{:030}")]
"""Ids that stand nowhere; the last ones have no ASCII letter or digit."""
ABSENT += ["日本", "—", "ü", "ab\u00fcb"]


@pytest.fixture(autouse=True, params=[[], ABSENT], ids=["alone", "among_many"])
def others(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test holds for one user and for many at once."""
    also_forgotten.extend(request.param)
    yield
    also_forgotten.clear()


also_forgotten: list[str] = []


def erase(root: Path, user: str) -> tuple[dict[str, int], list[Path]]:
    """What was removed, and the traces that are left."""
    users = [user, *also_forgotten]
    removed = forgetting.erase(root, users, user_columns=("user",))
    return removed, forgetting.traces(root, users, user_columns=("user",))


@pytest.mark.parametrize("user", [*LIKE_ANYTHING, *UNMISTAKABLE])
def test_the_user_goes_and_an_item_of_the_same_id_stays(tmp_path, user):
    """An item with the user's id stays in other users' lists and in the vocabulary, and is no trace."""
    lists: dict[str, Any] = {
        "user_id": [user, OTHER],
        "item_ids": [["i"], [user]],
        "because_item_ids": [[["i"]], [[user]]],
    }
    folder = put(tmp_path, "recommendations", {"part.parquet": pa.table(lists)})
    items = put(tmp_path, "item_vocabulary", {"part.parquet": pa.table({"item_id": [user], "title": [user]})})
    queries = put(tmp_path, "queries", {"part.parquet": pa.table({"query": [user]})})
    assert erase(tmp_path, user) == ({str(folder.relative_to(tmp_path)): 1}, [])
    assert pq.read_table(folder).to_pylist() == [
        {"user_id": OTHER, "item_ids": [user], "because_item_ids": [[user]]},
    ]
    assert pq.read_table(items).num_rows == pq.read_table(queries).num_rows == 1


@pytest.mark.parametrize("user", LIKE_ANYTHING)
def test_numbers_words_and_vocabularies_are_no_traces(tmp_path, user):
    """Numbers and words with the spelling of the id in models, tokenizers, manifests and pages stay."""
    words = {
        "tokenizer.json": json.dumps({"model": {"vocab": {user: 4413}}}),
        "words.txt": f"alice\n{user}\n",
        "model.safetensors": f"\0{user}\0",
        "model.json": json.dumps({"users": user, "columns": {"user_id": user}}),
    }
    put(tmp_path, "models/search_student", words)
    put(tmp_path, "reports", {"index.html": f"<p>{user} passed</p>, user by user" + page_of(OTHER, f"{user}0")})
    put_log(tmp_path, f"epoch {user}/50 done\n{user} users\nitem {user}: {user}.5 s\nuser {user}0 and x{user}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert erase(tmp_path, user) == ({}, [])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("user", [*LIKE_ANYTHING, *UNMISTAKABLE])
def test_quarantined_rows_go_by_their_user_alone(tmp_path, user):
    """The user's rows go, however the id is written; another user's row stays, even if its item has the same id."""
    escaped = json.dumps(user)[1:-1]
    own = [
        json.dumps({"user": user, "item": "i"}),
        json.dumps({"user": f" {user}\t", "item": "i"}, ensure_ascii=False),
        json.dumps({"user_id": user, "session_id": None, "item_id": "i"}),  # a bot's
        json.dumps({"customer": user, "item": "i"}),  # under an earlier mapping
        f"{user},i",
        f"i;{user}.",
        f'{{"user": "{escaped}", "item',
        f'{{"user": "{escaped.replace("u00fc", "u00FC")}", "item',
        '"{}",i,'.format(user.replace('"', '""')),
        *([f'{{"user":{user},"item":1}}', f'{{"user": {user}, "item'] if user.isdigit() else []),
    ]
    others = [
        json.dumps({"user": OTHER, "item": user}),
        json.dumps({"user": None, "item": user}),
        json.dumps({"user": f"{user}0", "item": "i"}),
        json.dumps({"user_id": OTHER, "session_id": user, "item_id": user}),
        f"x{user}y,i",
        f"{user}-2,i",
        f"{OTHER},i",
        "sha256:0a1b",
        *([f'{{"found":"{user} characters, {user} fields","expected":"{user} fields"}}'] if user.isdigit() else []),
        "[" * 100_000,
        None,
    ]
    rows = pa.table({"reason": ["bad_time"] * len([*own, *others]), "raw": [*own, *others]})
    folder = put(tmp_path, "quarantine", {"part.parquet": rows})
    removed, left = erase(tmp_path, user)
    assert pq.read_table(folder)["raw"].to_pylist() == others
    assert (sum(removed.values()), left) == (len(own), [])


@pytest.mark.parametrize("user", [*LIKE_ANYTHING, *UNMISTAKABLE])
def test_log_lines_go_that_say_whose_they_are(tmp_path, user):
    """Log lines go if they name the user as messages and printed rows do; the other lines stay."""
    own = [
        f"user {user}: 4 interactions, the last 3:",
        f"nothing for user {user}.",
        f"names i as a reason, which is not in the history of user {user}",
        f"ContractError: user {user} would be recommended an item of its own history",
        f"no user '{user}' in histories of {DS}",
        f"Row(user_id='{user}', item_id='i')",
        f"{{'user_id': '{user}', 'item_id': 'i'}}",
        json.dumps({"user_id": user}),
    ]
    others = [
        f"user {OTHER}: 4",
        f"user {user}0: 4",
        f"no user 'x{user}'",
        f"user_id={user}-2",
        "2 per user: 42",
        "user_id",
    ]
    path = put_log(tmp_path, "".join(f"{line}\n" for line in [*own, *others, "the end"]))
    assert erase(tmp_path, user) == ({f"logs/ds={DS}": len(own)}, [])
    assert path.read_text() == "".join(f"{line}\n" for line in [*others, "the end"])


@pytest.mark.parametrize("user", [*LIKE_ANYTHING, *UNMISTAKABLE])
def test_a_report_that_shows_the_user_goes(tmp_path, user):
    """A report that shows the user goes, however HTML writes the id."""
    folder = put(tmp_path, "reports", {"index.html": page_of(OTHER, user)})
    assert erase(tmp_path, user) == ({str(folder.relative_to(tmp_path)): 1}, [])
    assert partitions.read_manifest(tmp_path, "reports", DS) is None
    assert not (tmp_path / "reports" / f"ds={DS}").is_symlink(), "the link leads to nothing"


@pytest.mark.parametrize("user", UNMISTAKABLE)
def test_an_id_that_can_be_nothing_else_may_stand_nowhere(tmp_path, user):
    """An unmistakable id removes any log line with it and is a trace in any other file, unless another id contains
    it."""
    put_log(tmp_path, f"KeyError: '{user}'\nx{user}\n{user}0\n")
    put(tmp_path, "models/student", {"model.json": json.dumps({"users": [user]}), "words.txt": f"x{user}"})
    removed, left = erase(tmp_path, user)
    assert removed == {f"logs/ds={DS}": 1}
    assert [path.name for path in left] == ["model.json"]


def test_a_parquet_file_that_cannot_be_read_proves_nothing(tmp_path):
    """A Parquet file that a killed run left unreadable counts as a trace until somebody removes it."""
    folder = partitions.new_staging(tmp_path, "sessions", DS)
    (folder / "part.parquet").write_bytes(b"PAR1 half")
    assert erase(tmp_path, "42") == ({}, [folder / "part.parquet"])


def test_the_input_as_the_simulator_publishes_it_is_searched_too(tmp_path):
    """Ids that are whole numbers or have blanks around them are recognised as the user's."""
    numbers, texts = pa.table({"user_id": [42, 7, None]}), pa.table({"user_id": [" 42 ", "420", None]})
    put(tmp_path, "events", {"a.parquet": numbers, "b.parquet": texts})
    removed, left = erase(tmp_path, "42")
    assert (sum(removed.values()), left) == (2, [])


def test_folders_on_another_disk_are_searched_too(tmp_path):
    """Linked log folders and files are searched once; a link that leads up does no harm."""
    root, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    put(root, "histories", {"part.parquet": pa.table({"user_id": [USER_ID, OTHER]})})
    moved = put_log(elsewhere, f"no user '{USER_ID}'\na line\n")
    single = elsewhere / "one.log"
    single.write_text(f"user {USER_ID}\n")
    (root / "logs").symlink_to(elsewhere / "logs")
    (root / "nightly.log").symlink_to(single)
    (root / "logs" / "up").symlink_to(root)
    removed, left = erase(root, USER_ID)
    assert sorted(removed.values()) == [1, 1, 1]
    assert left == []
    assert (moved.read_text(), single.read_text()) == ("a line\n", "")
    assert (root / "nightly.log").is_symlink()


def test_text_that_is_no_utf8_hinders_no_search(tmp_path):
    """Rows with bytes that are no UTF-8 are searched, and the user's row among them is found."""
    raw = pa.array([b"42,a\xff", b"7,\xff", None]).cast(pa.binary())
    users = pa.array([b"\xff7", b" 42"])
    for name, column in (("raw", raw), ("user_id", users)):
        text = pa.Array.from_buffers(pa.string(), len(column), column.buffers())
        put(tmp_path, f"table_{name}", {"part.parquet": pa.table({name: text})})
    removed, left = erase(tmp_path, "42")
    assert (sum(removed.values()), left) == (2, [])


@pytest.mark.parametrize(("before", "now"), [(None, KEY), (KEY, NEW_KEY), (KEY, None)])
def test_the_list_holds_under_its_own_key_alone(tmp_path, before, now):
    """With another key a list is an error that says what to do; an empty list fits every key."""
    forgetting.check_key(tmp_path, now)
    forgetting.remember_to_forget(tmp_path, ["a"], before)
    forgetting.remember_to_forget(tmp_path, ["b"], before)
    forgetting.check_key(tmp_path, before)
    assert len(forgetting.forgotten(tmp_path)) == 2
    made = "under another pseudonym key than" if before else "without a pseudonym key, unlike"
    message = rf"2 users in .*_forgotten\.json were forgotten {made} .*come back\. Set the key .* remove that file"
    with pytest.raises(ConfigError, match=message):
        forgetting.check_key(tmp_path, now)
    with pytest.raises(ConfigError, match=message):
        forgetting.remember_to_forget(tmp_path, ["c"], now)
    assert len(forgetting.forgotten(tmp_path)) == 2
    written = (tmp_path / forgetting.LIST).read_text()
    assert not before or before.decode() not in written


def test_a_list_of_before_there_was_a_key_in_it_is_one_without(tmp_path):
    """A list in the old format, without a key, still works without a key."""
    (tmp_path / forgetting.LIST).write_text(json.dumps([forgetting.digest("a")]))
    forgetting.remember_to_forget(tmp_path, ["b"])
    assert forgetting.forgotten(tmp_path) == sorted(map(forgetting.digest, "ab"))
    with pytest.raises(ConfigError, match="without a pseudonym key"):
        forgetting.check_key(tmp_path, KEY)


@pytest.mark.parametrize("killed_before", ["part.parquet", "manifest.json", "anything"])
def test_a_killed_forget_leaves_a_whole_table(tmp_path, killed_before, monkeypatch):
    """Killed before a file or the last form of the manifest is in its place, readers find a whole table; a rerun ends it."""
    put(tmp_path, "histories", {"part.parquet": pa.table({"user_id": [USER_ID, OTHER], "n": [1, 2]})})
    replace_by, seen = Path.replace, []

    def killed(self: Path, target: Path) -> Path:
        seen.append(Path(target).name)
        last = killed_before == "manifest.json" and seen.count("manifest.json") == 2
        if last or (killed_before != "manifest.json" and len(seen) == (2 if killed_before == "part.parquet" else 1)):
            raise KeyboardInterrupt
        return replace_by(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        erase(tmp_path, USER_ID)
    monkeypatch.undo()
    manifest = partitions.manifest_of(tmp_path, "histories", DS)
    assert partitions.damaged(tmp_path, manifest) == []
    erase(tmp_path, USER_ID)
    manifest = partitions.manifest_of(tmp_path, "histories", DS)
    assert partitions.damaged(tmp_path, manifest) == forgetting.traces(tmp_path, [USER_ID]) == []
    data = partitions.current(tmp_path, "histories", DS)
    assert [path.suffix for path in data.iterdir()] == [".parquet"]
    if killed_before != "manifest.json":
        assert manifest.rows == 1
        assert "before" not in manifest.files[0]


@pytest.mark.parametrize("damage", ["", "{", "3", '{"users": 3}'])
def test_a_damaged_list_is_read_from_its_copy(tmp_path, damage):
    """Without the copy it is an error that says what to do: the users' events would come back."""
    forgetting.remember_to_forget(tmp_path, ["a"])
    (tmp_path / forgetting.LIST).write_text(damage)
    assert forgetting.forgotten(tmp_path) == [forgetting.digest("a")]
    (tmp_path / forgetting.COPY).unlink()
    with pytest.raises(
        ConfigError, match=r"_forgotten\.json, is empty or damaged: .* come back\. Put it back from a copy"
    ):
        forgetting.forgotten(tmp_path)
    (tmp_path / forgetting.LIST).unlink()
    assert forgetting.forgotten(tmp_path) == []


def test_two_killed_forgets_leave_a_whole_table(tmp_path, monkeypatch):
    """The second one is killed at the same place, and its user is another one."""
    put(tmp_path, "histories", {"part.parquet": pa.table({"user_id": [USER_ID, "1" * 50, OTHER], "n": [1, 2, 3]})})
    replace_by = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).suffix == ".parquet":
            raise KeyboardInterrupt
        return replace_by(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        for user in (USER_ID, "1" * 50):
            with pytest.raises(KeyboardInterrupt):
                forgetting.erase(tmp_path, [user])
            manifest = partitions.manifest_of(tmp_path, "histories", DS)
            assert partitions.damaged(tmp_path, manifest) == []


def test_two_forgets_at_once_both_keep_their_users(tmp_path):
    """Neither replaces the list of the other."""
    threads = [
        threading.Thread(target=forgetting.remember_to_forget, args=(tmp_path, [f"user{number}"]))
        for number in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(forgetting.forgotten(tmp_path)) == 4

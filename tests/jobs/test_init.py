"""`distilrec init`: the file that it writes, what it prints, and what it refuses."""

from pathlib import Path

import pytest
import yaml

from jobs.__main__ import main
from kdlib.config.load import load_config
from tests.onboarding import raw_shops


def test_init_writes_a_run_config(tmp_path, monkeypatch, capsys):
    """The run config is valid, named after the folder, and the last lines name the next commands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_shop").mkdir()
    events, articles = raw_shops.german(tmp_path / "my_shop")
    assert main(["init", events, articles]) == 0
    config = load_config("my_shop.yaml")
    assert config.name == "my_shop"
    assert config.output_dir == "output/my_shop"
    assert config.input.events
    assert config.input.events.path == events
    printed = capsys.readouterr().out
    assert "Artikelnr, for example A-" in printed
    assert "not certain, please check:\n- input.events.only_type: every row counts as a purchase" in printed
    assert printed.endswith("distilrec validate --config my_shop.yaml, then: distilrec nightly --config my_shop.yaml\n")


def test_the_run_config_is_named_after_its_file(tmp_path, monkeypatch):
    """Two run configs of one folder have names and output folders of their own."""
    monkeypatch.chdir(tmp_path)
    events = raw_shops.taobao(tmp_path)
    for file, name in (("my-shop.yaml", "my_shop"), ("other/shop2.yaml", "shop2")):
        assert main(["init", *events, "--out", file]) == 0
        config = load_config(file)
        assert (config.name, config.output_dir) == (name, f"output/{name}")
    assert main(["init", *events, "--out", "run.yaml"]) == 0
    assert load_config("run.yaml").name not in ("run", "other")
    assert main(["init", *events, "--out", "2.yaml", "--name", "mine"]) == 0
    assert load_config("2.yaml").name == "mine"


def test_each_doubt_stands_beside_its_setting(tmp_path, capsys):
    """What is printed as not certain is a comment in the file too."""
    out = tmp_path / "run.yaml"
    assert main(["init", *raw_shops.taobao(tmp_path), "--out", str(out)]) == 0
    text = out.read_text()
    assert "has no header, so the columns are named by position" in capsys.readouterr().out
    assert (
        text.index("# UserBehavior.csv has no header") < text.index("columns: [user_id") < text.index("user: user_id")
    )


def test_an_existing_file_is_not_overwritten(tmp_path, capsys):
    """A run config that exists stays as it is, unless --force says to replace it."""
    out = tmp_path / "run.yaml"
    out.write_text("mine")
    files = raw_shops.retailrocket(tmp_path)
    assert main(["init", *files, "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert "exists and may hold your changes. Give another file with --out, or replace it with --force" in (
        capsys.readouterr().err
    )
    assert main(["init", *files, "--out", str(out), "--force"]) == 0
    assert yaml.safe_load(out.read_text())["input"]["events"]["user"] == "visitorid"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_usual_place_is_not_overwritten_either(tmp_path, monkeypatch, capsys):
    """Without --out the file is NAME.yaml, and one that exists stays."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("mine")
    assert main(["init", *raw_shops.retailrocket(tmp_path), "--name", "mine"]) == 2
    assert Path("mine.yaml").read_text() == "mine"
    assert "mine.yaml exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--name", "My Shop"], "--name must be small letters, digits and _, and begin with a letter, found 'My Shop'"),
        (["--out", "/proc/no/run.yaml"], "cannot write /proc/no/run.yaml"),
        (
            ["--column", "colour=x"],
            "--column must be ROLE=NAME with a role of user, session, item, time, found colour=x",
        ),
        (["--column", "item=shade"], "has no column 'shade'. Its columns are timestamp, visitorid"),
    ],
)
def test_a_wrong_option_is_an_error(tmp_path, monkeypatch, capsys, more, words):
    """A name that no run config may have, a place that cannot be written, and a role or column that does not exist."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", *raw_shops.retailrocket(tmp_path), *more]) == 2
    assert words in capsys.readouterr().err


def test_a_named_column_is_taken(tmp_path):
    """--column gives a role another column than the guess, and the other roles are guessed as usual."""
    out = tmp_path / "run.yaml"
    assert main(["init", *raw_shops.german(tmp_path), "--out", str(out), "--column", "user=Preis"]) == 0
    events = yaml.safe_load(out.read_text())["input"]["events"]
    assert (events["user"], events["item"]) == ("Preis", "Artikelnr")


def test_a_file_that_cannot_be_used_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    """An error ends with status 2 and writes no file."""
    monkeypatch.chdir(tmp_path)
    Path("image.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    assert main(["init", "image.csv"]) == 2
    assert "is a PNG image" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["image.csv"]

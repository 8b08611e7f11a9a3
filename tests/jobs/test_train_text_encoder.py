"""The stage that trains text encoders: what it publishes, and that teachers with other text settings have their own tables."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import train_text_encoder
from jobs.runtime import encoders, runner
from jobs.runtime.names import adapted_encoder, title_vectors
from kdlib.config.run import RunConfig
from kdlib.config.text import TextConfig
from kdlib.encoders.encoder import TextVectors
from kdlib.store import partitions, tables
from kdlib.teachers.text import read_title_vectors
from kdlib.training.encoder_task import encoder_tasks
from kdlib.training.specs import EncoderSpec
from tests import stages
from tests.teachers.test_contrastive import WORDS, tiny_encoder
from tests.whole_nights import HOME, environment

DS = "2026-11-22"
ITEMS = [f"{a} {b}" for a in WORDS for b in WORDS if a != b] + [None, None]
ADAPT = {"epochs": 4, "batch_size": 32, "learning_rate": 0.006, "temperature": 0.2, "max_pairs": 2000}


def _publish(root: Path, table: tables.Table, rows: Mapping[str, object]) -> None:
    staging = partitions.new_staging(root, table.name, DS)
    pq.write_table(pa.table(dict(rows), schema=table.schema), staging / "part.parquet")
    tables.check_files(table, staging)
    partitions.publish(staging, root, table.name, DS, fingerprint="by hand")


def _world(root: Path) -> None:
    """Publish histories of 120 shoppers: each goes to a random item, then to its companion, whose title has other words."""
    generator = np.random.default_rng(0)
    order = generator.permutation(len(ITEMS) - 2)
    companion = dict(zip([*order[0::2], *order[1::2]], [*order[1::2], *order[0::2]], strict=True))
    walks = []
    for _ in range(120):
        walk = []
        for start in generator.choice(len(ITEMS) - 2, 3):
            walk += [int(start), int(companion[start])]
        walks.append(walk)
    day = datetime(2026, 11, 22, tzinfo=UTC)
    _publish(
        root,
        tables.HISTORIES,
        {
            "user_id": [f"u{n}" for n in range(120)],
            "item_indices": walks,
            "event_types": [[0] * 6] * 120,
            "event_times": [[day - timedelta(hours=6 - n) for n in range(6)]] * 120,
            "session_numbers": [[0] * 6] * 120,
            "num_train": [5] * 120,
            "validation_position": [5 if n % 2 else None for n in range(120)],
            "test_position": [None] * 120,
            "user_values": [[]] * 120,
        },
    )
    counts = np.bincount([item for walk in walks for item in walk[:5]], minlength=len(ITEMS)).tolist()
    everything = {"item_index": list(range(len(ITEMS)))}
    _publish(
        root,
        tables.ITEM_VOCABULARY,
        everything
        | {
            "item_id": [f"i{n}" for n in range(len(ITEMS))],
            "title": ITEMS,
            "available": [True] * len(ITEMS),
            "in_stock": [True] * len(ITEMS),
            "first_seen": [DS] * len(ITEMS),
        },
    )
    statistics = dict.fromkeys(("num_interactions", "num_users", "num_train", "num_in_windows"), counts)
    _publish(root, tables.ITEM_STATISTICS, everything | statistics | {"num_purchases": [0] * len(ITEMS)})


TRAIN_TEACHERS = """
import sys
from jobs.runtime.ray_cluster import start_ray
from kdlib.config.load import load_config
from tests import stages
config = load_config(sys.argv[1])
with start_ray(config):
    for name in ("train-text-encoder", "encode-titles", "train-teacher"):
        stages.run(name, config)
"""


def _train_teachers(config: Path) -> str:
    """Run the stages up to the teachers in a process of its own, on one local Ray; what they print."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_TEACHERS, str(config)],
        cwd=HOME,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_teachers_with_different_text_settings_live_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One teacher reads the adapted encoder's vectors, the other the whitened pretrained vectors. Each has its own table."""
    root = tmp_path / "output"
    _world(root)
    text = {"encoder": str(tiny_encoder(tmp_path / "encoder")), "max_tokens": 8, "batch_size": 16}
    model = {"kind": "gru", "dim": 8}
    document = {
        "name": "texts",
        "ds": DS,
        "output_dir": str(root),
        "input": {"simulate": {}},
        "teachers": [
            {"name": "adapted", "model": model, "text": text | {"adapt": ADAPT}},
            {"name": "whitened", "model": model, "text": text | {"whiten": True, "whiten_width": 6}},
        ],
        "training": {"workers": 1, "zero_stage": 2, "defaults": {"epochs": 1, "batch_size": 32}},
        "student": {"train": {"batch_size": 32}},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    config = RunConfig.model_validate(document)
    adapts, whitens = (teacher.text for teacher in config.teachers)
    assert adapts is not None
    assert whitens is not None
    name = adapted_encoder(adapts)
    printed = _train_teachers(path)

    folder = partitions.current(root, name, DS)
    facts = json.loads((folder / "encoder.json").read_text())
    recalls = [line["recall@10"] for line in facts["epochs"]]
    assert len(recalls) == 5
    assert facts["epoch"] == int(np.argmax(recalls))
    assert max(recalls) > recalls[0] + 0.2
    assert facts["validation_pairs"] == 60
    assert facts["pairs"] <= 480
    assert re.search(r"encoder_\w+ epoch  4/4: loss \S+, validation recall@10 0\.\d+", printed), printed
    assert not (root / "_checkpoints").exists() or not list((root / "_checkpoints").iterdir())

    assert len(list((root / "title_vectors").glob(f"*/ds={DS}"))) == 2
    adapted, whitened = (
        read_title_vectors(partitions.current(root, title_vectors(text), DS)) for text in (adapts, whitens)
    )
    assert (adapted.shape, whitened.shape) == ((len(ITEMS), 16), (len(ITEMS), 6))
    assert not adapted[-2:].any()
    items = pa.table({"item_index": pa.array(range(len(ITEMS)), pa.int32()), "title": ITEMS})
    again = TextVectors(str(folder), "passages", max_tokens=8, batch_size=64, threads=1)(items)
    np.testing.assert_allclose(adapted.ravel(), again["vector"].combine_chunks().flatten().to_numpy(), atol=1e-5)
    for teacher in ("adapted", "whitened"):
        assert (partitions.current(root, f"models/{teacher}", DS) / "model.safetensors").exists()

    stages.run("train-text-encoder", config)
    assert f"{name}: up to date" in capsys.readouterr().out


def test_an_encoder_is_trained_again_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Teacher and student with the same encoder share its training. Only other pretrained weights make a new one."""
    trained = []

    def workers(config: RunConfig, worker: object, spec: dict, train: object, **_: object) -> None:
        """Stands for Ray Train: leaves an encoder's facts."""
        made: EncoderSpec = spec["spec"]
        assert spec["make_tasks"] is encoder_tasks
        trained.append(made.name)
        facts = {"parameters": 7, "pairs": 5, "validation_pairs": 2, "epoch": 1}
        lines = [{"recall@10": 0.25}, {"recall@10": 0.5}]
        Path(made.export, "encoder.json").write_text(json.dumps(facts | {"epochs": lines}))

    monkeypatch.setattr(encoders, "run_workers", workers)
    monkeypatch.setattr(runner, "start_ray", lambda _: nullcontext())
    monkeypatch.setattr(train_text_encoder, "read_parquet", lambda *_, **__: MagicMock())
    root = tmp_path / "output"
    _world(root)
    text = {"encoder": str(tiny_encoder(tmp_path / "encoder")), "adapt": ADAPT}
    document = {"name": "x", "ds": DS, "output_dir": str(root), "input": {"simulate": {}}}
    readers = {"teachers": [{"name": "a", "text": text}], "student": {"text": text | {"whiten": True}}}
    config = RunConfig.model_validate(document | readers)
    [(name, first)] = stages.run("train-text-encoder", config).items()
    assert trained == [name.removeprefix("models/")]
    line = "epoch 1 kept; recall@10 of 2 held-out pairs 0.2500 as pretrained, 0.5000 now"
    assert capsys.readouterr().out.count(line) == 1
    assert stages.run("train-text-encoder", config) == {name: first}
    assert f"{name}: up to date" in capsys.readouterr().out
    assert len(trained) == 1
    config_file = tmp_path / "encoder" / "config.json"
    config_file.write_text(config_file.read_text() + " ")
    assert stages.run("train-text-encoder", config)[name].version != first.version
    assert len(trained) == 2
    assert not list((root / "_checkpoints").iterdir())


def test_the_name_follows_what_the_weights_depend_on() -> None:
    """Whitening and the encoding batch do not change an encoder's name. The training settings do."""
    text = {"adapt": ADAPT}
    name = adapted_encoder(TextConfig.model_validate(text))
    assert re.fullmatch(r"models/encoder_[0-9a-f]{8}", name)
    assert adapted_encoder(TextConfig.model_validate(text | {"whiten": True, "batch_size": 3})) == name
    assert adapted_encoder(TextConfig.model_validate(text | {"max_tokens": 3})) != name
    assert adapted_encoder(TextConfig.model_validate({"adapt": ADAPT | {"epochs": 5}})) != name


def test_without_an_adapted_text_the_stage_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line says which key no model has."""
    document = {"name": "none", "output_dir": str(tmp_path), "input": {"simulate": {}}}
    assert stages.run("train-text-encoder", RunConfig.model_validate(document)) == {}
    assert re.search(r"train-text-encoder: skipped.* no model has text\.adapt", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"whiten_width": 3}, "whiten_width needs whiten: true"),
        (
            {"adapt": {"batch_size": 33}},
            r"teacher\.text\.adapt: batch_size 33 is not a multiple of training\.workers 2",
        ),
    ],
)
def test_impossible_text_settings_are_refused(text: dict, message: str, tmp_path: Path) -> None:
    """A width without whitening and a batch that the workers cannot share are errors that name the key."""
    document = {"name": "x", "output_dir": str(tmp_path), "input": {"simulate": {}}}
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(document | {"teachers": [{"name": "teacher", "text": text}]})

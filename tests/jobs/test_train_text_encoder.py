"""The text encoder's training as a job: what it publishes, and that teachers with other text settings live beside it."""

import json
import os
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

from jobs.train_text_encoder import encoder_name, run
from kdlib.config.models import TextConfig
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.store import partitions, tables
from kdlib.teachers.text import TitleEncoder, read_title_vectors
from kdlib.training.specs import EncoderSpec
from tests.teachers.test_contrastive import WORDS, tiny_encoder

HOME = Path(__file__).parents[2]
DS = "2026-11-22"
ITEMS = [f"{a} {b}" for a in WORDS for b in WORDS if a != b] + [None, None]
ADAPT = {"epochs": 4, "batch_size": 32, "learning_rate": 0.006, "temperature": 0.2, "max_pairs": 2000}


def _publish(root: Path, table: tables.Table, rows: Mapping[str, object]) -> None:
    staging = partitions.new_staging(root, table.name, DS)
    pq.write_table(pa.table(dict(rows), schema=table.schema), staging / "part.parquet")
    tables.check_files(table, staging)
    partitions.publish(staging, root, table.name, DS, fingerprint="by hand")


def _world(root: Path) -> None:
    """120 shoppers who go from an item to its companion, whose title says something else, and on at random."""
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


def _train_teachers(config: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "train-teacher", "--config", str(config)],
        cwd=HOME,
        env=environment,
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One teacher reads the adapted encoder's vectors, another the whitened pretrained ones; each has its own table."""
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
        "training": {"workers": 2, "zero_stage": 2, "defaults": {"epochs": 1, "batch_size": 32}},
        "student": {"train": {"batch_size": 32}},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    config = RunConfig.model_validate(document)
    assert config.teachers[0].text is not None
    name = encoder_name(config.teachers[0].text)
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

    variants = sorted(path.parent for path in (root / "title_vectors").glob(f"*/ds={DS}"))
    widths = {variant: read_title_vectors(variant / f"ds={DS}").shape for variant in variants}
    assert sorted(widths.values()) == [(len(ITEMS), 6), (len(ITEMS), 16)]
    adapted = next(read_title_vectors(v / f"ds={DS}") for v, shape in widths.items() if shape[1] == 16)
    assert not adapted[-2:].any()
    items = pa.table({"item_index": pa.array(range(len(ITEMS)), pa.int32()), "title": ITEMS})
    again = TitleEncoder(str(folder), max_tokens=8, batch_size=64, threads=1)(items)
    np.testing.assert_allclose(adapted.ravel(), again["vector"].combine_chunks().flatten().to_numpy(), atol=1e-5)
    for teacher in ("adapted", "whitened"):
        assert (partitions.current(root, f"models/{teacher}", DS) / "model.safetensors").exists()

    monkeypatch.setattr("jobs.train_text_encoder.start_ray", lambda _: nullcontext())
    run(config)
    assert f"{name}: up to date" in capsys.readouterr().out


def test_an_encoder_is_trained_again_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Teacher and student with the same encoder train it once, a second night not at all, other pretrained weights anew."""
    import ray.data

    import jobs.train_text_encoder as job

    trained = []

    def workers(config: RunConfig, worker: object, spec: dict, train: object, **_: object) -> None:
        """Stands for Ray Train: leaves an encoder's facts."""
        made: EncoderSpec = spec["spec"]
        trained.append(made.name)
        facts = {"parameters": 7, "pairs": 5, "validation_pairs": 2, "epoch": 1}
        lines = [{"recall@10": 0.25}, {"recall@10": 0.5}]
        Path(made.export, "encoder.json").write_text(json.dumps(facts | {"epochs": lines}))

    monkeypatch.setattr(job, "run_workers", workers)
    monkeypatch.setattr(job, "start_ray", lambda _: nullcontext())
    monkeypatch.setattr(ray.data, "read_parquet", lambda *_, **__: MagicMock())
    root = tmp_path / "output"
    _world(root)
    text = {"encoder": str(tiny_encoder(tmp_path / "encoder")), "adapt": ADAPT}
    document = {"name": "x", "ds": DS, "output_dir": str(root), "input": {"simulate": {}}}
    readers = {"teachers": [{"name": "a", "text": text}], "student": {"text": text | {"whiten": True}}}
    config = RunConfig.model_validate(document | readers)
    [(name, first)] = run(config).items()
    assert trained == [name.removeprefix("models/")]
    line = "epoch 1 kept; recall@10 of 2 held-out pairs 0.2500 as pretrained, 0.5000 now"
    assert capsys.readouterr().out.count(line) == 1
    assert run(config) == {name: first}
    assert f"{name}: up to date" in capsys.readouterr().out
    assert len(trained) == 1
    config_file = tmp_path / "encoder" / "config.json"
    config_file.write_text(config_file.read_text() + " ")
    assert run(config)[name].version != first.version
    assert len(trained) == 2
    assert not list((root / "_checkpoints").iterdir())


def test_the_name_follows_what_the_weights_depend_on() -> None:
    """Whitening and the encoding batch leave an encoder's name; the training settings change it."""
    text = {"adapt": ADAPT}
    name = encoder_name(TextConfig.model_validate(text))
    assert re.fullmatch(r"models/encoder_[0-9a-f]{8}", name)
    assert encoder_name(TextConfig.model_validate(text | {"whiten": True, "batch_size": 3})) == name
    assert encoder_name(TextConfig.model_validate(text | {"max_tokens": 3})) != name
    assert encoder_name(TextConfig.model_validate({"adapt": ADAPT | {"epochs": 5}})) != name


def test_nothing_to_adapt_is_an_error(tmp_path: Path) -> None:
    """Without a teacher that adapts its text the job says which key to set."""
    document = {"name": "none", "output_dir": str(tmp_path), "input": {"simulate": {}}}
    with pytest.raises(ConfigError, match=r"no teacher, nor the student, has text\.adapt"):
        run(RunConfig.model_validate(document))


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
    """A width without whitening, and a batch that the workers cannot share, are errors that name the key."""
    document = {"name": "x", "output_dir": str(tmp_path), "input": {"simulate": {}}}
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(document | {"teachers": [{"name": "teacher", "text": text}]})

"""Training of sequence models: the name of the checkpoints, and what the workers read. No cluster is started."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from jobs.pipeline import stage_named
from jobs.runtime import train_models
from jobs.runtime.runner import made_by
from jobs.runtime.train_models import checkpoints_name, fit
from kdlib.config.models import ModelConfig, TrainConfig
from kdlib.config.run import RunConfig
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store.fingerprint import fingerprint_of
from kdlib.training.specs import StudentsSpec, TrainingRun


def config_for(folder: Path, **changes: Any) -> RunConfig:
    simulated = {"simulate": {"num_events": 10_000}}
    return RunConfig.model_validate(
        {"name": "n", "ds": "2026-11-22", "output_dir": str(folder), "input": simulated, **changes}
    )


def test_checkpoints_are_those_of_the_same_work_in_the_same_form() -> None:
    """Another seed, model, number of workers or ZeRO stage has other checkpoints. Another retry limit has the same."""
    stage = stage_named("distill")

    def name(seed: int = 1, dim: int = 64, **training: int) -> str:
        config = config_for(Path("o"), seed=seed, student={"model": {"dim": dim}}, training=training)
        fingerprints = [fingerprint_of(made_by(config, stage, part, {})) for part in stage.parts_of(config)]
        return checkpoints_name(config, stage.name, fingerprints)

    assert name() == name(max_failures=7)
    assert len({name(), name(seed=2), name(dim=32), name(workers=4), name(zero_stage=3)}) == 5


def test_sampled_targets_are_one_state_a_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers read one number a position with sampled targets, one a teacher with hidden states, none without."""
    specs: list[StudentsSpec] = []

    def train(_: RunConfig, __: object, spec: dict[str, StudentsSpec], *_more: object, **options: object) -> None:
        specs.append(spec["spec"])
        for run in spec["spec"].runs:
            model = SequenceModel(num_items=3, kind="gru", dim=4)
            save_model(Path(run.export), model, model.state_dict(), {})

    monkeypatch.setattr(train_models, "start_ray", lambda _: nullcontext())
    monkeypatch.setattr(train_models, "read_parquet", lambda *_: None)
    monkeypatch.setattr(train_models, "run_workers", train)

    def states(**taught: Any) -> int:
        runs = [
            TrainingRun(
                name=name,
                export=str(tmp_path / name),
                model=ModelConfig(),
                train=TrainConfig(),
                seed=1,
                statistics="",
                **settings,
            )
            for name, settings in (("control", {}), ("student", taught))
        ]
        fit(
            config_for(tmp_path),
            "distill",
            runs,
            fingerprints=["a", "b"],
            train_files=[],
            histories=tmp_path,
            from_histories=False,
            facts={"vocabulary_items": 3},
        )
        return specs[-1].states_a_position

    teachers = [("a", 0.5), ("b", 0.5)]
    assert states(cached=teachers) == 2
    assert states(cached=teachers, targets="sampled") == 1
    assert states() == 0

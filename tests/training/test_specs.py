"""What a training job hands to its workers."""

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from kdlib.config.models import ModelConfig, TrainConfig
from kdlib.config.text import AdaptConfig
from kdlib.training.specs import EncoderSpec, StudentsSpec, TrainingRun

RUN = TrainingRun("student", "out", ModelConfig(), TrainConfig(), 1, "statistics", hidden_weight=0.5)


def test_specs_survive_pickling_and_cannot_change() -> None:
    """Ray sends them to other machines; they arrive equal, and nobody changes them on the way."""
    encoder = EncoderSpec("e", "base", AdaptConfig(), 8, 1, "out", {"base": "b"}, "texts")
    for spec in (StudentsSpec((RUN,), 1, ["part-0.parquet"], 9, {"split": {}}, (0, 2)), encoder):
        assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises(FrozenInstanceError):
        RUN.seed = 2  # type: ignore[misc]


def test_specs_are_light_to_import() -> None:
    """A job can declare its training before torch and Ray are imported."""
    code = "import sys, kdlib.training.specs; print([name for name in ('torch', 'ray') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"

"""Settings by their path: what stages declare that their results depend on."""

import pytest

from kdlib.config.run import RunConfig
from kdlib.config.settings import settings_of

DOCUMENT = {
    "name": "x",
    "output_dir": "out",
    "input": {"simulate": {}},
    "teachers": [{"name": "big"}, {"name": "rules", "rules": {}, "weight": 2.0}],
    "distillation": {"targets": "sampled"},
}


@pytest.fixture
def config() -> RunConfig:
    return RunConfig.model_validate(DOCUMENT)


def test_a_section_is_all_of_its_settings(config):
    """Each value has its own path, and lists of plain values stay in one piece."""
    assert settings_of(config, ["evaluation"]) == {
        "evaluation.k": [5, 10, 20],
        "evaluation.max_users": 100_000,
        "evaluation.control": True,
        "evaluation.bootstrap_samples": 1_000,
        "evaluation.new_item_days": 30,
    }


def test_items_of_a_list_have_their_names(config):
    """A star stands for all items."""
    assert settings_of(config, ["teachers.*.weight"]) == {"teachers.big.weight": 1.0, "teachers.rules.weight": 2.0}
    assert settings_of(config, ["teachers.rules.weight"]) == {"teachers.rules.weight": 2.0}


def test_a_minus_leaves_out(config):
    """A path with a minus takes away what another path names, whole sections too."""
    found = settings_of(config, ["training", "-training.defaults", "-training.bf16"])
    assert "training.max_length" in found
    assert not [path for path in found if path.startswith("training.defaults") or path == "training.bf16"]


def test_a_section_that_is_not_there_is_none(config):
    """A setting below it is None, so that adding the section is a change."""
    assert settings_of(config, ["search.text.adapt"]) == {"search.text.adapt": None}


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("training", {"max_failures", "resident_megabytes", "cpus_per_worker"}),
        ("recommend", {"actors", "batch_size", "item_block"}),
    ],
)
def test_operational_settings_are_left_out(config, section, names):
    """Retries, memory and actors cannot change a result."""
    found = settings_of(config, [section])
    assert found
    assert not {f"{section}.{name}" for name in names} & found.keys()

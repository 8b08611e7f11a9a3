"""Benchmark configs and the selection record."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from jobs.benchmark.command import results_path
from jobs.benchmark.results import peers_of
from jobs.benchmark.selection import best_kind, read_selection
from kdlib.config.benchmark import draw_trials, load_benchmark, merge
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError, ModelError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions
from tests.jobs.conftest import DS, NIGHT

RUN = NIGHT | {
    "name": "tiny",
    "seed": 3,
    "teachers": [
        {"name": "first", "model": {"kind": "gru", "dim": 16, "dropout": 0.1}, "seed": 1},
        {"name": "second", "model": {"kind": "gru", "dim": 16, "dropout": 0.1}, "seed": 2},
    ],
    "student": {"model": {"kind": "gru", "dim": 8, "dropout": 0.1}, "train": {"learning_rate": 0.01}},
}
BENCHMARK = {
    "name": "tiny_quality",
    "run": "run.yaml",
    "seeds": [1, 2],
    "arms": {
        "student_plain": {"teacher": "none"},
        "student": {},
        "permuted": {"teacher": "permuted", "seeds": [1]},
    },
}


def write_benchmark(folder: Path, run: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A benchmark config with these changes, and its run config beside it."""
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN | {"output_dir": str(folder / "output")} | (run or {})))
    path = folder / "benchmark.yaml"
    path.write_text(yaml.safe_dump(BENCHMARK | {"results": str(folder / "results.json")} | changes))
    return path


def test_merge_goes_key_by_key() -> None:
    """Mappings in both are merged. Any other value is the second's. Neither argument changes."""
    below = {"model": {"kind": "gru", "dim": 8}, "train": {"epochs": 3}}
    merged = merge(below, {"model": {"dim": 16}, "train": None})
    assert merged == {"model": {"kind": "gru", "dim": 16}, "train": None}
    assert below["model"]["dim"] == 8


def test_arms_change_the_runs_student_and_distillation(tmp_path: Path) -> None:
    """An arm is the run config with the arm's own keys. `like` starts from another arm. Seeds default to all."""
    path = write_benchmark(
        tmp_path,
        arms={
            "student_plain": {"teacher": "none"},
            "student": {"student": {"model": {"dim": 16}}, "distillation": {"temperature": 3.0}},
            "coded": {"like": "student", "student": {"train": {"epochs": 1}}, "seeds": [5]},
            "permuted": {"teacher": "permuted"},
            "low": {"student": {"model": {"dropout": 0.4}}},
        },
    )
    arms = load_benchmark(path).arms()
    assert arms["student"].config.student.model.kind == "gru"
    assert arms["student"].config.student.model.dim == 16
    assert arms["student"].config.student.train == {"learning_rate": 0.01}
    assert arms["student"].config.distillation.temperature == 3.0
    assert arms["coded"].config.student.model.dim == 16
    assert arms["coded"].config.student.train == {"learning_rate": 0.01, "epochs": 1}
    assert (arms["coded"].seeds, arms["student"].seeds) == ((5,), (1, 2))
    assert arms["permuted"].config.student.model.dim == 8
    # a student is compared with the same student without teachers, whatever its dropout
    assert {name: arm.plain for name, arm in arms.items()} == {
        "student_plain": None,
        "student": None,
        "coded": None,
        "permuted": "student_plain",
        "low": "student_plain",
    }


def test_a_student_that_reads_titles_is_compared_with_one_that_reads_them(tmp_path: Path) -> None:
    """The gain from titles does not count as the teacher's."""
    arms = {
        "blind": {"teacher": "none", "student": {"text": None}},
        "titles": {"teacher": "none"},
        "student": {},
    }
    reads = {"student": RUN["student"] | {"text": {}}}
    assert load_benchmark(write_benchmark(tmp_path, run=reads, arms=arms)).arms()["student"].plain == "titles"
    del arms["titles"]
    assert load_benchmark(write_benchmark(tmp_path, run=reads, arms=arms)).arms()["student"].plain is None


class _Source:
    """Features of a catalogue of 40 items."""

    def vocabulary_facts(self) -> dict[str, Any]:
        return {"vocabulary_items": 40}


def test_other_software_s_results_stand_beside_ours(tmp_path: Path) -> None:
    """Their results have their own names, and the settings in their file. Results of another split are refused."""
    held = {"users": 9, "items": 40, "settings": {"minutes": 90}, "figures": {"ndcg10": 0.1, "hr10": 0.2}}
    held["intervals"] = {"ndcg10": [0.05, 0.15]}
    (tmp_path / "rectools.json").write_text(json.dumps(held))
    benchmark = load_benchmark(write_benchmark(tmp_path, peers={"rectools": str(tmp_path / "rectools.json")}))
    source: Any = _Source()
    assert peers_of(benchmark, source, 9) == {
        "figures": {"rectools_ndcg10": 0.1, "rectools_hr10": 0.2},
        "intervals": {"rectools_ndcg10": [0.05, 0.15]},
        "facts": {"rectools": {"users": 9, "items": 40, "settings": {"minutes": 90}}},
    }
    with pytest.raises(InputError, match=r"is about \{.users.: 9, .items.: 40\}, this benchmark about \{.users.: 8"):
        peers_of(benchmark, source, 8)
    (tmp_path / "rectools.json").write_text("{}")
    with pytest.raises(InputError, match=r"peers\.rectools: .*must be a JSON with users, items, figures"):
        peers_of(benchmark, source, 9)


def test_overrides_reach_the_benchmark_and_with_a_prefix_the_run(tmp_path: Path) -> None:
    """`run.` sets the run config, any other key the benchmark. Results of selected arms have a file of their own."""
    path = write_benchmark(tmp_path)
    benchmark = load_benchmark(path, overrides=("run.seed=9", "seeds=[7]"), arms=("student",))
    assert benchmark.run.seed == 9
    assert benchmark.run_overrides == ("seed=9",)
    assert {name: arm.seeds for name, arm in benchmark.arms().items()} == {"student": (7,)}
    assert results_path(benchmark).name == "results_partial.json"
    assert results_path(load_benchmark(path)).name == "results.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"student": {"studnt": {}}}}, r"unknown key arms\.student\.studnt"),
        (
            {"arms": {"student": {"student": {"model": {"dmi": 8}}}}},
            r"arm student is wrong: unknown key student\.model\.dmi",
        ),
        ({"arms": {"student": {"teacher": "nobody"}}}, r"arms\.student\.teacher.*'nobody'"),
        ({"arms": {"student": {"like": "other"}}}, "student: like .*found other"),
        ({"arms": {"student": {"like": "b"}, "b": {"like": "student"}}}, "like needs another"),
        ({"arms": {"student": {"teacher": "self"}}}, "needs an arm with teacher: none"),
        ({"arms": {"student": {"teacher": "self", "seeds": [3]}, "p": {"teacher": "none"}}}, r"seeds \[3\]"),
        ({"arms": {"student": {"plain": "student"}}}, "plain needs an arm with teacher: none.*found student"),
        ({"arms": {"student": {}, "popularity": {}}}, "names of baselines"),
        ({"peers": {"student": "a.json"}}, r"peers: \['student'\] are names of arms"),
        ({"arms": {"other": {}}}, r"main: .*\['other'\], found student"),
        ({"arms": {"student": {"distillation": {"mode": "joint"}}}}, "joint"),
        ({"seeds": []}, "seeds"),
        (
            {"tuning": {"trials": 1, "arms": ["x"], "space": {"student.train.epochs": [1]}}},
            r"tuning\.arms: .*found \['x'\]",
        ),
        (
            {"tuning": {"trials": 1, "arms": ["student"], "space": {"training.workers": [1]}}},
            "must be below student or distillation",
        ),
        ({"tuning": {"trials": 1, "arms": ["student"], "space": {"student.train.epoch": [1]}}}, r"student\.train"),
        (
            {
                "tuning": {
                    "trials": 1,
                    "arms": ["student"],
                    "space": {"distillation.kl_weight": {"log_uniform": [0, 1]}},
                }
            },
            "low < high, above 0",
        ),
    ],
)
def test_a_wrong_benchmark_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Each fault is an error before any training. The error names the key or the arm."""
    with pytest.raises(ConfigError, match=message):
        load_benchmark(write_benchmark(tmp_path, **changes))


def test_trials_are_the_same_for_every_arm_and_inside_the_space(tmp_path: Path) -> None:
    """The seed alone decides the trials, from the list or between the bounds. A trial reaches the arm's settings."""
    tuning = {
        "trials": 20,
        "arms": ["student_plain", "student"],
        "space": {"distillation.temperature": [1.0, 4.0], "student.train.learning_rate": {"log_uniform": [0.001, 0.1]}},
    }
    benchmark = load_benchmark(write_benchmark(tmp_path, tuning=tuning))
    assert benchmark.config.tuning is not None
    trials = draw_trials(benchmark.config.tuning)
    assert trials == draw_trials(benchmark.config.tuning)
    assert {trial["distillation.temperature"] for trial in trials} == {1.0, 4.0}
    rates = [trial["student.train.learning_rate"] for trial in trials]
    assert 0.001 <= min(rates) < 0.01 < max(rates) <= 0.1
    found = benchmark.arms({"student": trials[0]})["student"].config
    assert found.distillation.temperature == trials[0]["distillation.temperature"]
    assert found.student.train["learning_rate"] == rates[0]


def test_what_an_arm_or_the_search_sets_for_the_student_holds_for_the_control_too(tmp_path: Path) -> None:
    """The student of an arm or a trial overrides the run's `student.control`, key by key. An arm's own control stays."""
    path = write_benchmark(
        tmp_path,
        arms={
            "as_it_is": {"teacher": "none"},
            "own": {"teacher": "none", "student": {"model": {"dropout": 0.4}, "train": {"epochs": 9}}},
            "tuned": {"teacher": "none", "student": {"model": {"dropout": 0.4}, "control": {"dropout": 0.2}}},
            "student": {},
        },
    )
    control = "{dropout: 0.3, train: {epochs: 12, learning_rate: 0.02}}"
    benchmark = load_benchmark(path, overrides=(f"run.student.control={control}",))
    arms = benchmark.arms({"as_it_is": {"student.train.epochs": 5}})
    found = {name: arm.config.student.without_teachers() for name, arm in arms.items()}
    assert {name: student.model.dropout for name, student in found.items()} == {
        "as_it_is": 0.3,
        "own": 0.4,
        "tuned": 0.2,
        "student": 0.3,
    }
    assert [found[name].train["epochs"] for name in ("as_it_is", "own", "tuned")] == [5, 9, 12]
    assert found["own"].train["learning_rate"] == 0.02
    # only an arm without a teacher trains its control
    student = arms["student"].config.student
    assert {name: arm.student for name, arm in arms.items()} == {**found, "student": student}
    assert student != found["student"]


def test_the_best_kind_of_teacher_has_the_best_mean() -> None:
    """Seeds of one kind count together. A kind with the single best teacher but a worse mean is not chosen."""
    kinds = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    assert best_kind(kinds, {"a1": 0.9, "a2": 0.1, "b1": 0.6, "b2": 0.6}) == ["b1", "b2"]


def _publish_model(config: RunConfig, name: str, seed: int) -> str:
    torch.manual_seed(seed)
    model = SequenceModel(num_items=9, kind="gru", dim=4)
    folder = partitions.new_staging(config.root, name, DS)
    facts = save_model(folder, model, model.state_dict(), {})
    partitions.publish(folder, config.root, name, DS, fingerprint=str(seed))
    return facts["sha256"]


def test_the_record_refuses_a_changed_model(tmp_path: Path) -> None:
    """A recorded model is found. A missing record and a model that replaces the recorded one are errors."""
    config = load_benchmark(write_benchmark(tmp_path)).run
    with pytest.raises(InputError, match="no record of what was selected for the benchmark b"):
        read_selection(config, "b")
    sha256 = _publish_model(config, "models/bench_student_s1", seed=1)
    record = {"students": {"student_s1": {"model": "models/bench_student_s1", "sha256": sha256}}, "teachers": {}}
    folder = partitions.new_staging(config.root, "benchmark_selection/b", DS)
    (folder / "selection.json").write_text(json.dumps(record))
    partitions.publish(folder, config.root, "benchmark_selection/b", DS, fingerprint="x")
    assert Path(read_selection(config, "b")["students"]["student_s1"]["folder"]).is_dir()
    _publish_model(config, "models/bench_student_s1", seed=2)
    with pytest.raises(ModelError, match=rf"student_s1 is not the model that was selected.*{sha256[:12]}"):
        read_selection(config, "b")

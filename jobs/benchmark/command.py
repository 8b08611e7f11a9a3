"""Compare recipes of a student: train each variant with several seeds, then measure all students on the test users.

No result on a test item can influence a choice. Epochs, search trials and the best kind of teacher are chosen on
validation. The choices are published with the models' hashes, and the test starts from that record.
"""

import json
import shlex
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from jobs.benchmark.provenance import hardware, package_versions
from jobs.benchmark.ranks import rank_selected
from jobs.benchmark.results import results_of
from jobs.benchmark.selection import publish_selection
from jobs.benchmark.students import students_of, train_students, tuned
from jobs.pipeline import STAGES
from jobs.runtime.command import Invocation, execute
from jobs.runtime.console import engine_output_to, log_file, say
from jobs.runtime.process import StageProcess
from jobs.runtime.published import features
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.runner import run_stage
from kdlib.config.benchmark import Arm, Benchmark, load_benchmark
from kdlib.metrics.comparison import format_comparison

BEFORE_STUDENTS = (
    "simulate-events",
    "build-features",
    "train-text-encoder",
    "encode-titles",
    "train-teacher",
    "cache-teacher",
)
"""The stages of a run whose results all variants share."""


def run(benchmark: Benchmark, *, command_line: list[str]) -> Path:
    """Run all stages that are not up to date and write the results file; returns its path."""
    config, name, log = benchmark.run, benchmark.config.name, log_file(benchmark.run, "benchmark")
    stages = [stage for stage in STAGES if stage.name in BEFORE_STUDENTS and stage.when(config)]
    with engine_output_to(log):
        say(f"benchmark: {name}, {config.day}, output in {config.root}, engine logs in {log.parent}")
    invocation = Invocation(str(benchmark.run_path), config.day, benchmark.run_overrides)
    with closing(StageProcess(invocation)) as spark_process:
        for stage in (stage for stage in stages if stage.engine != "ray"):
            if stage.engine == "spark":
                spark_process.run(stage.name)
            else:
                with engine_output_to(log):
                    run_stage(config, stage, pipeline=STAGES)
    with engine_output_to(log), start_ray(config):
        for stage in (stage for stage in stages if stage.engine == "ray"):
            run_stage(config, stage, pipeline=STAGES)
        source = features(config)
        found = tuned(benchmark, source)
        arms = benchmark.arms(found.settings)
        students = students_of(arms.values(), found.trials)
        train_students(config, source, students)
        selection = publish_selection(config, name, students, found.settings)
        say(
            f"selection: {len(students)} students and {len(config.teachers)} teachers on record, version {selection.version}"
        )
        ranked = rank_selected(benchmark)
        results = {
            "command": shlex.join(["distilrec", "benchmark", *command_line]),
            "seeds": {arm.name: list(arm.seeds) for arm in arms.values()},
            "hardware": hardware(config),
            "versions": package_versions(),
            "date": datetime.fromtimestamp(ranked.published_unix_seconds, UTC).isoformat(timespec="seconds"),
            **results_of(benchmark, source, ranked),
            "arms": {arm.name: _settings(arm) for arm in arms.values()},
        }
        path = results_path(benchmark)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        say(f"\n=== {name}, {config.day}: {results['test_users']:,} test users ===")
        say(format_comparison(results, {arm.name: arm.plain for arm in arms.values()}))
        say(f"wrote {path}")
    return path


def _settings(arm: Arm) -> dict[str, object]:
    """All settings of a variant's training."""
    student = arm.student
    return {
        "teacher": arm.teacher,
        "plain": arm.plain,
        "model": student.model.model_dump(mode="json"),
        "export": student.export,
        "train": arm.config.training.resolve(student.train).model_dump(),
        "distillation": None if arm.teacher == "none" else arm.config.distillation.model_dump(mode="json"),
    }


def results_path(benchmark: Benchmark) -> Path:
    """The results file. Selected variants have a results file of their own, beside the complete one."""
    path = Path(benchmark.config.results)
    return path if benchmark.selected is None else path.with_name(f"{path.stem}_partial.json")


def benchmark(invocation: Invocation, arms: tuple[str, ...] | None = None) -> int:
    """The command `distilrec benchmark`; returns its exit status.

    Args:
      invocation: the benchmark's config, date and overrides.
      arms: names of the only variants to run. None: all of them.
    """

    def load() -> Benchmark:
        return load_benchmark(invocation.config, overrides=invocation.overrides, ds=invocation.ds, arms=arms)

    command_line = [*invocation.words(), *(["--arms", ",".join(arms)] if arms else [])]
    return execute(
        "benchmark", invocation, lambda config: run(load(), command_line=command_line), load=lambda: load().run
    )

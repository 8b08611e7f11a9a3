"""Recipes of a student against each other: every arm trained with several seeds, all measured once on the test users.

Nothing that is measured on a test item can flow back: epochs, search trials and the best kind of teacher are chosen on
validation, the choices are published with the models' hashes, and only then, from that record, the test is run.
"""

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from jobs import cache_teacher, simulate_events, train_teacher
from jobs.benchmark.provenance import hardware, package_versions
from jobs.benchmark.results import rank_selected, results_of
from jobs.benchmark.selection import publish_selection
from jobs.benchmark.students import students_of, train_students, tuned_settings
from jobs.runtime.console import command, engine_output_to, log_file, say
from jobs.runtime.process import run_in_own_process
from jobs.runtime.published import features
from jobs.runtime.ray_cluster import start_ray
from kdlib.config.benchmark import Arm, Benchmark, load_benchmark
from kdlib.metrics.comparison import format_comparison


def run(benchmark: Benchmark, *, command_line: list[str]) -> Path:
    """All stages, skipping what is up to date; the results file, written anew."""
    config, name, log = benchmark.run, benchmark.config.name, log_file(benchmark.run, "benchmark")
    with engine_output_to(log):
        say(f"benchmark: {name}, {config.day}, output in {config.root}, engine logs in {log.parent}")
        if config.input.simulate is not None:
            simulate_events.run(config)
    run_in_own_process("build_features", benchmark.run_path, ds=config.day, overrides=benchmark.run_overrides)
    with engine_output_to(log), start_ray(config):
        train_teacher.run(config)
        cache_teacher.run(config)
        source = features(config)
        found = tuned_settings(benchmark, source)
        arms = benchmark.arms(found)
        students = students_of(arms.values())
        train_students(config, source, students)
        selection = publish_selection(config, name, students, found)
        say(
            f"selection: {len(students)} students and {len(config.teachers)} teachers on record, version {selection.version}"
        )
        ranked = rank_selected(benchmark, source, selection)
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
    """All that an arm was trained with."""
    student = arm.config.student
    return {
        "teacher": arm.teacher,
        "plain": arm.plain,
        "model": student.model.model_dump(mode="json"),
        "export": student.export,
        "train": arm.config.training.resolve(student.train).model_dump(),
        "distillation": None if arm.teacher == "none" else arm.config.distillation.model_dump(mode="json"),
    }


def results_path(benchmark: Benchmark) -> Path:
    """Where the results go. Those of selected arms lie beside the whole ones, which they never replace."""
    path = Path(benchmark.config.results)
    return path if benchmark.selected is None else path.with_name(f"{path.stem}_partial.json")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(config="cluster/runs/quality_beauty.yaml")
    parser.add_argument(
        "--arms",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B",
        help="only these arms; others stay as they are",
    )


def _load(arguments: argparse.Namespace) -> Benchmark:
    return load_benchmark(arguments.config, overrides=tuple(arguments.set), ds=arguments.ds, arms=arguments.arms)


def main(argv: list[str] | None = None) -> int:
    command_line = sys.argv[1:] if argv is None else argv
    return command(
        "benchmark",
        lambda config: None,
        argv,
        description=__doc__ or "",
        add_arguments=_add_arguments,
        load=lambda arguments: _load(arguments).run,
        with_arguments=lambda config, arguments: run(_load(arguments), command_line=command_line),
    )


if __name__ == "__main__":
    sys.exit(main())

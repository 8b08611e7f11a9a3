"""Judge a run before it is promoted: the input after `build-features`, the models after `evaluate`, then the search.

A failed gate ends the run with exit status 3 and keeps what is in use. `--force REASON` overrules it, on record.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow.parquet as pq

from jobs.runtime.console import say
from kdlib.config.run import RunConfig
from kdlib.errors import GateError, InputError
from kdlib.metrics.table import objective_metric
from kdlib.release import gates, promotions
from kdlib.release.gates import Gate
from kdlib.store import partitions
from kdlib.store.fingerprint import fingerprint_of

WEEKS = 4
"""How many runs of the same weekday are the measure of a day's volume. `retention.nights` bounds it, too."""
JUDGED = {"input": "histories", "quality": "metrics"}
"""Part of the gates → the table that it judges."""
BY = {
    "gates": (("histories", "metrics"), "check-gates"),
    "search_gates": (("search_index", "search_rankings"), "check-search"),
}
"""Table of gates → the tables that a promotion wants judged, and the stage that judges them."""


def judge(config: RunConfig, *, parts: tuple[str, ...] = ("input", "quality"), force: str = "") -> list[Gate]:
    """Judge, publish `gates`, and raise where one of them failed.

    Args:
      config: the run config.
      parts: `input` judges the histories, `quality` the metrics.
      force: why failures are overruled. Empty: only failures that were overruled before, of the same tables, stay overruled.

    Raises:
      GateError: names each failed gate with value and bound.
      InputError: the features or the metrics are not published.
    """
    judged: list[Gate] = []
    inputs: dict[str, str] = {}
    if "input" in parts:
        judged += _input(config, inputs)
    if "quality" in parts:
        judged += _quality(config, inputs)
    record, known, reason = on_record(config, "gates")
    same = [part for part, table in JUDGED.items() if table in inputs and inputs[table] == known.get(table)]
    # gates of the other part stay, if the histories are the same
    others = [gate for gate in record if gate.part not in parts and "input" in same]
    stage = "check_input" if parts == ("input",) else "check_gates"
    return conclude(
        config,
        "gates",
        judged,
        title=f"{stage}: {' and '.join(parts)}",
        overruled={gate.gate for gate in record if gate.status == "forced" and gate.part in same},
        others=others,
        inputs=known | inputs if others else inputs,
        force=force,
        reason=reason,
    )


def conclude(
    config: RunConfig,
    table: str,
    judged: list[Gate],
    *,
    title: str,
    overruled: Collection[str],
    inputs: Mapping[str, str],
    force: str,
    reason: str,
    others: Sequence[Gate] = (),
    details: Mapping[str, Any] | None = None,
) -> list[Gate]:
    """Publish gates, print how many passed, and raise where one of them failed.

    Args:
      config: the run config.
      table: `gates` or `search_gates`.
      judged: the gates.
      title: begins the printed line.
      overruled: gates of the same tables that were overruled before. If no other gate fails, they stay overruled.
      inputs: table → version, of what the gates judge.
      force: why failures are overruled now. Empty: they are not.
      reason: why they were overruled before.
      others: gates that were judged before and are published with these.
      details: more for the manifest.

    Raises:
      GateError: names each failed gate with value and bound.
    """
    again = not force and {gate.gate for gate in gates.failed(judged)} <= set(overruled)
    if force or again:
        judged = gates.forced(judged)
    _publish(config, table, [*judged, *others], inputs, force or reason, details or {})
    by_status = {
        status: [g for g in judged if g.status == status] for status in ("passed", "failed", "forced", "skipped")
    }
    counts = ", ".join(f"{len(found)} {status}" for status, found in by_status.items() if found)
    say(f"{title}: {counts}")
    for gate in by_status["forced"]:
        say(f"  forced{f', as before ({reason})' if again else ''}: {gates.in_words(gate)}")
    if broken := by_status["failed"]:
        in_use = promotions.current(config.root)
        stays = f"the table of {in_use.ds} stays in use" if in_use else "nothing is published"
        repeated = " again" if in_use and in_use.ds == config.day else ""
        raise GateError(
            f"{config.day} is not published{repeated}, {stays}: {'; '.join(map(gates.in_words, broken))}."
            " Fix the input or the bound (section gates), or overrule with --force REASON"
        )
    return judged


def on_record(config: RunConfig, table: str) -> tuple[list[Gate], dict[str, str], str]:
    """This date's last judged gates, the versions that they judged, and why failures were overruled."""
    manifest = partitions.read_manifest(config.root, table, config.day)
    if manifest is None:
        return [], {}, ""
    found = gates.gates_of(pq.read_table(partitions.current(config.root, table, config.day)))
    return found, manifest.inputs, manifest.details.get("reason", "")


def check_allowed(config: RunConfig, table: str, found: Mapping[str, str]) -> None:
    """Check that the gates have judged these tables, and allow them.

    Args:
      config: the run config.
      table: of `BY`.
      found: table or model → version, of what is to be promoted.

    Raises:
      InputError: they have judged other tables.
      GateError: a gate has failed.
    """
    names, stage = BY[table]
    judged, known, _ = on_record(config, table)
    if known != {name: found[name] for name in names}:
        raise InputError(
            f"the {table.replace('_', ' ')} of {config.day} have not judged what is published now: run"
            f" `distilrec {stage}` first"
        )
    if broken := gates.failed(judged):
        raise GateError(f"{config.day} is not promoted: {'; '.join(map(gates.in_words, broken))}")


def _earlier(config: RunConfig, name: str) -> list[promotions.Promotion]:
    """The promoted runs before this one that still have the table `name`."""
    nights = promotions.nights(config.root, before=config.day, holding=name)
    return [night for night in nights if promotions.has(config.root, night, name)]


def trailing(config: RunConfig, name: str) -> list[promotions.Promotion]:
    """The last `gates.trailing_nights` promoted runs before this one that still have the table `name`."""
    return _earlier(config, name)[-config.gates.trailing_nights :]


def _input(config: RunConfig, inputs: dict[str, str]) -> list[Gate]:
    tonight = partitions.manifest_of(config.root, "histories", config.day)
    inputs["histories"] = tonight.version
    weekday = config.last_day.weekday()
    alike = [night for night in _earlier(config, "histories") if date.fromisoformat(night.ds).weekday() == weekday]
    earlier, same_weekday = (
        [promotions.manifest_of(config.root, night, "histories").details["funnel"] for night in nights]
        for nights in (trailing(config, "histories"), alike[-WEEKS:])
    )
    bounds = config.gates.model_dump(include=set(_INPUT_BOUNDS))
    return gates.input_gates(tonight.details["funnel"], earlier, same_weekday=same_weekday, **bounds)


_INPUT_BOUNDS = (
    "min_volume_ratio",
    "max_volume_ratio",
    "max_share_rise",
    "max_quarantined_share",
    "max_new_item_share",
    "max_history_length_change",
)
_QUALITY_BOUNDS = ("min_test_users", "min_gain_over_popularity", "max_loss_to_last_night", "min_coverage_ratio")


def _quality(config: RunConfig, inputs: dict[str, str]) -> list[Gate]:
    metrics = pq.read_table(partitions.current(config.root, "metrics", config.day))
    inputs["metrics"] = partitions.manifest_of(config.root, "metrics", config.day).version
    coverage = f"coverage@{max(config.evaluation.k)}"
    usual = []
    for night in trailing(config, "metrics"):
        table = pq.read_table(promotions.folder_of(config.root, night, "metrics"))
        usual += [r["value"] for r in table.to_pylist() if (r["model"], r["metric"]) == ("student", coverage)]
    bounds = config.gates.model_dump(include=set(_QUALITY_BOUNDS))
    k = config.evaluation.judged_k
    judged = f"ndcg@{k}" if config.objective.event_weights is None else objective_metric(k)
    if judged not in metrics["metric"].to_pylist():
        raise InputError(
            f"metrics of {config.day} are stale: the gates judge {judged}, which was not measured. Run"
            " `distilrec evaluate` first"
        )
    return gates.quality_gates(metrics, usual, metric=judged, coverage_metric=coverage, **bounds)


def _publish(
    config: RunConfig,
    name: str,
    judged: list[Gate],
    inputs: Mapping[str, str],
    reason: str,
    details: Mapping[str, Any],
) -> None:
    staging = partitions.new_staging(config.root, name, config.day)
    table = gates.gates_table(judged)
    pq.write_table(table, staging / "part-00000.parquet")
    reason = reason if any(gate.status == "forced" for gate in judged) else ""
    key = fingerprint_of(table.to_pylist(), inputs, reason)
    details = {"reason": reason, **details}
    partitions.publish(staging, config.root, name, config.day, fingerprint=key, inputs=dict(inputs), details=details)

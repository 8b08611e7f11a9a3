"""The metrics of a run in the Prometheus text format. Names follow its conventions, as in `_timestamp_seconds`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from kdlib.release.gates import rows_judged
from kdlib.report.content import Night


@dataclass(frozen=True)
class InUse:
    """The run that readers get."""

    ds: str
    since_unix_seconds: float
    rows: Mapping[str, int]
    """Table → rows."""


def exposition(night: Night, *, in_use: InUse | None, status: int | None) -> bytes:
    """All series. Each has the label `run`: the name of the run config.

    Args:
      night: the run to write about; it may be unfinished.
      in_use: the run that readers get. None: no run was promoted yet.
      status: the exit status of the run. None: not known.
    """
    registry = CollectorRegistry()

    def gauge(name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"distilrec_{name}", help_text, ("run", *labels), registry=registry)

    run = night.name
    gauge("night_day_timestamp_seconds", "Start (UTC) of the day of the last run").labels(run).set(unix(night.ds))
    if status is not None:
        gauge("night_exit_status", "0 done, 3 blocked by a gate, 74 not delivered, others: see README").labels(run).set(
            status
        )
    if in_use is not None:
        gauge("in_use_day_timestamp_seconds", "Start (UTC) of the day of the run in use").labels(run).set(
            unix(in_use.ds)
        )
        gauge("in_use_since_timestamp_seconds", "When the run in use was put in use").labels(run).set(
            in_use.since_unix_seconds
        )
        rows = gauge("in_use_rows", "Rows of a table in use", "table")
        for table, number in in_use.rows.items():
            rows.labels(run, table).set(number)
    if night.funnel:
        rows = gauge("input_rows", "Input rows of the run by result", "kind")
        for kind, number in rows_judged(night.funnel).items():
            rows.labels(run, kind).set(number)
        reasons = gauge("quarantined_rows", "Quarantined rows by reason", "reason")
        for reason, number in night.funnel["reasons"].items():
            reasons.labels(run, reason).set(number)
        for name in ("users", "sessions", "interactions", "items"):
            gauge(name, f"{name.capitalize()} of the run").labels(run).set(night.funnel[name])
    stages = gauge("stage_seconds", "How long a stage took when it last ran for the day", "stage")
    for stage, seconds in night.seconds.items():
        stages.labels(run, stage.replace("-", "_")).set(seconds)
    _training(night, gauge)
    _gates(night, gauge)
    quality = gauge("quality", "Metrics on the test users", "model", "metric")
    for (model, metric), one in night.metrics.items():
        if " - " not in model and "/" not in metric:
            quality.labels(run, model, metric).set(one.value)
    return generate_latest(registry)


def _training(night: Night, gauge) -> None:
    speed = gauge("training_positions_per_second", "Training positions per second, over all epochs", "model")
    wait = gauge("training_data_wait_share", "Share of the training time that steps wait for their batch", "model")
    size = gauge("model_parameters", "Number of parameters of a model", "model")
    for model, facts in night.models.items():
        if facts.get("parameters") is not None:
            size.labels(night.name, model).set(facts["parameters"])
        epochs = facts.get("epochs") or []
        seconds = sum(one.get("train_seconds", 0.0) for one in epochs)
        if seconds:
            speed.labels(night.name, model).set(sum(one["positions"] for one in epochs) / seconds)
            wait.labels(night.name, model).set(sum(one.get("data_wait_seconds", 0.0) for one in epochs) / seconds)


def _gates(night: Night, gauge) -> None:
    values = gauge("gate_value", "Value that a gate found", "gate")
    bounds = gauge("gate_bound", "Bounds of the value that a gate allows", "gate", "side")
    failed = gauge("gate_failed", "1: the gate failed, or was forced", "gate")
    for one in night.gates:
        failed.labels(night.name, one.name).set(one.status in ("failed", "forced"))
        for side, bound in (("low", one.low), ("high", one.high)):
            if bound is not None and one.value is not None:
                bounds.labels(night.name, one.name, side).set(bound)
        if one.value is not None:
            values.labels(night.name, one.name).set(one.value)


def unix(ds: str) -> float:
    """Unix time of the start (UTC) of a day, YYYY-MM-DD."""
    return datetime.fromisoformat(ds).replace(tzinfo=UTC).timestamp()

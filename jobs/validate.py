"""Judge a sample of the input as a run would, and print what would be kept. Nothing is written."""

import tempfile
import time
from pathlib import Path
from typing import Any

from jobs.runtime.console import engine_output_to, safe, say, warn
from jobs.runtime.encoding import check_encoder
from jobs.runtime.names import encoders_of
from jobs.runtime.verdict import Verdict, judge, on_this_machine
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features import funnel as funnels
from kdlib.features.columns import MOST_ID_CHARACTERS
from kdlib.store.remote_files import is_object

ADVICE = {
    "corrupt_row": "check delimiter, header and columns: the lines have another number of fields",
    "missing_user": "check user: a run quarantines rows without one",
    "missing_item": "check item",
    "long_id": f"check user, session, item and event_id: an id has at most {MOST_ID_CHARACTERS} characters",
    "missing_time": "check time.column",
    "bad_time": "check time.format and time.pattern",
    "out_of_period": "check ds and features.period_start",
    "late": "check late_days, and {day} in the path",
    "unknown_event_type": "add the types to event_types, or leave them out with where",
    "bot_user": "check user, or raise features.max_events_per_user_day",
    "forgotten_user": "these users were forgotten on request",
}
"""Reason → what to look at, in the section `input.events` unless it says otherwise."""


def run(config: RunConfig, *, rows: int) -> None:
    """Judge a sample of at most about `rows` rows and print the verdict. The text encoders must be there.

    Raises:
      ConfigError, UnreachableError: a text encoder is not there.
      InputError: no row is kept; or the sample is the whole input and nothing can be trained on it.
      ConfigError: the run config has no events of its own.
    """
    started = time.monotonic()
    for text in encoders_of(config):
        check_encoder(text)
    if config.input.events is None:
        raise ConfigError(
            f"the run config {config.name} names no files with events (input.events), so there is nothing to validate."
            " Simulated events need no check"
        )
    with tempfile.TemporaryDirectory(prefix="distilrec-validate-") as folder:
        log = Path(folder, "spark.log")
        try:
            with engine_output_to(log):
                verdict = judge(on_this_machine(config), Path(folder), log, rows=rows)
        except RuntimeError as error:  # Java failed; its log goes with the folder
            raise RuntimeError(f"{error}\n{log.read_text()[-2_000:] if log.exists() else ''}") from None
    _tell(config, verdict, seconds=time.monotonic() - started)


def _tell(config: RunConfig, verdict: Verdict, *, seconds: float) -> None:
    """Print the verdict, and the next step; raises as `run` says."""
    funnel, events = verdict.funnel, config.input.events
    assert events
    read_ = funnel["rows_read"]
    sample = "all of them" if verdict.whole else "a sample; --rows N reads more"
    if is_object(events.path):
        sample += "; copied from the store, and removed again"
    say(f"rows         {read_:>11,}   {sample}")
    outcomes = ("kept", "filtered", "duplicate", "quarantined")
    for name in (one for one in outcomes if one in funnel):
        say(f"{name:<12} {funnel[name]:>11,}   {funnel[name] / read_:.1%}")
    for reason, number in funnel["reasons"].items():
        say(f"  {reason}: {number:,} ({ADVICE[reason]})")
        for raw, file in verdict.rejected[reason]:
            say(f"    {safe(raw)[:160]}   [{safe(file)}]")
    if not funnel["kept"]:
        _fail(funnel, path=events.path, where=events.where)
    say(
        f"users        {funnel['users']:>11,}   {funnel['trainable_users']:,} have two interactions or more to train on"
    )
    say(f"items        {funnel['items']:>11,}   {_listed(funnel)}")
    say(
        f"days         {funnel['days']:>11,}   {funnel['first_event']} to {funnel['last_event']} UTC; ds is {config.day}"
    )
    split = config.features.split
    windows = "" if split.kind == "leave_one_out" else f", windows of {split.validation_days} + {split.test_days} days"
    say(
        f"split        {split.kind}{windows}: {funnel['validation_users']:,} users validate, {funnel['test_users']:,}"
        " test"
    )
    try:
        funnels.check_listed(funnel)
        funnels.check_trainable(funnel, last_day=config.last_day, **split.model_dump())
    except InputError as error:
        if verdict.whole:
            raise
        warn(f"warning: in this sample, {error}")
    found = [verdict.warning, *funnels.warnings(funnel)]
    if 0 < funnel["test_users"] < config.gates.min_test_users and verdict.whole:
        found.append(
            f"{funnel['test_users']} users test, and a run needs {config.gates.min_test_users}"
            " (gates.min_test_users): set features.split.test_days higher, or kind: leave_one_out"
        )
    if not funnel["day_events"] and verdict.whole:
        found.append(
            f"no event is of {config.day}, so a run would not be promoted. Set ds to the last day of the events"
        )
    for text in filter(None, found):
        warn(f"warning: {text}")
    say(f"\nlooked at in {seconds:.0f} s; nothing was written. Next: `distilrec nightly`")


def _listed(funnel: dict[str, Any]) -> str:
    if "catalogue" not in funnel:
        return "no catalogue"
    listed = funnel["items"] - funnel["unlisted_items"]
    of_events = 1 - funnel["unlisted_events"] / funnel["kept"]
    return f"{listed / funnel['items']:.1%} of them are in the catalogue, with {of_events:.1%} of the events"


def _fail(funnel: dict[str, Any], *, path: str, where: str | None) -> None:
    """Raise InputError: no row is kept."""
    if funnel.get("filtered", 0) > funnel["quarantined"]:
        raise InputError(
            f"no row of {path} would be kept: the filter input.events.where leaves out {funnel['filtered']:,} of"
            f" {funnel['rows_read']:,}: {where!r}. For which rows shall it be true?"
        )
    reason = max(funnel["reasons"], key=lambda name: funnel["reasons"][name])
    raise InputError(
        f"no row of {path} would be kept: {funnel['reasons'][reason]:,} of {funnel['rows_read']:,} are {reason}. In the"
        f" run config, {ADVICE[reason]}"
    )

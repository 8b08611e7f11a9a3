"""The top of the page: the verdict on the run in one sentence, and its first five or six numbers."""

from dataclasses import dataclass

from markupsafe import Markup

from kdlib.report.content import Gate, Night
from kdlib.report.labels import (
    bounds,
    count,
    interval,
    metric_name,
    name_of,
    number,
    score,
    share,
    short_day,
    signed_score,
    verdict,
)
from kdlib.report.rendering import render


@dataclass(frozen=True)
class Tile:
    """One of the first numbers of the page."""

    label: str
    figure: str
    below: str = ""
    """A short text below the figure."""
    interval: str = ""
    """Stands below the text, in one line."""


def headline(night: Night) -> Markup:
    """The name, the date, the verdict and the first numbers."""
    kind, sentence = decision(night)
    notes = [*absent(night), *night.notes]
    return render("headline", night=night, kind=kind, sentence=sentence, notes=notes, tiles=_tiles(night))


def decision(night: Night) -> tuple[str, str]:
    """(good | warn | bad, the verdict in a sentence)."""
    failed = [gate for gate in night.gates if gate.status == "failed"]
    forced = [gate for gate in night.gates if gate.status == "forced"]
    judged = sum(gate.status != "skipped" for gate in night.gates)
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        gates = "gates" if more else "a gate"
        return "bad", f"✕ Blocked by {gates}: {found_and_bounds(failed[0])}{more}. {_in_use(night)}"
    if night.lists is None:
        return "bad", f"✕ Not published: the run has no table of recommendations. {_in_use(night)}"
    users, use = f"{count(night.lists.users)} users have their lists", night.use
    if use.rolled_back_to:
        why = f" ({use.reason})" if use.reason else ""
        back = f"a rollback to {short_day(use.rolled_back_to)}{why} took them out of use"
        return "warn", f"! Withdrawn: {users}, but {back}. {_in_use(night)}"
    if not use.promoted:
        why = f"the run is not promoted. {_in_use(night)}"
        if use.frozen:
            why = f"the run in use is frozen ({use.frozen}). {_in_use(night)}"
        elif use.in_use is not None and use.in_use > night.ds:
            why = f"the later run of {short_day(use.in_use)} stays in use."
        return "warn", f"! Not in use: {users}, but {why}"
    if forced:
        return "warn", f"! Published by force: {users}, although {'; '.join(map(found_and_bounds, forced))}."
    if not judged:
        return "good", f"✓ Published: {users}. No gates were judged."
    return "good", f"✓ Published: {users}; {'the one gate' if judged == 1 else f'all {judged} gates'} passed."


def _in_use(night: Night) -> str:
    """Which run readers get, for a verdict that leaves this open."""
    now = night.use.in_use
    if now is None:
        return "No run is in use."
    if now != night.ds:
        return f"The run of {short_day(now)} is in use."
    return "Its table is still in use." if night.use.promoted else "Another table of the same day is in use."


def found_and_bounds(gate: Gate) -> str:
    """`history length is 40.4, allowed 13.2 to 39.6`."""
    found = "was not found" if gate.value is None else f"is {number(gate.value)}"
    return f"{gate.name.replace('_', ' ')} {found}, allowed {bounds(gate)}"


def absent(night: Night) -> list[str]:
    """One sentence that names the missing results and their stages, or none."""
    missing = {
        "no features (build_features)": night.funnel is None,
        "no student (distill)": "student" not in night.models,
        "no measurements (evaluate)": not night.metrics,
        "no recommendations (recommend)": night.lists is None,
    }
    names = [name for name, is_missing in missing.items() if is_missing]
    return [f"This run has {', '.join(names)}. The sections that need them say so."] if names else []


def _tiles(night: Night) -> list[Tile]:
    metric, tiles = night.shown_metric, []
    student = night.metrics.get(("student", metric))
    if student:
        name = metric_name(metric)
        tiles.append(Tile(f"Student, {name}", score(student.value), interval=interval(student)))
        tiles += [
            Tile(
                f"Against {name_of(other)}",
                signed_score(difference.value),
                verdict(difference),
                interval(difference, signed=True),
            )
            for other in ("popularity", "control", "last_night")
            if (difference := night.difference("student", other, metric))
        ]
        if best := night.metrics.get(("best_reachable", metric)):
            best_share = share(student.value / best.value, digits=0)
            tiles.append(Tile("Share of the best reachable", best_share, f"the true model has {score(best.value)}"))
    if night.lists:
        table = f"{night.lists.k} items each, table {night.lists.version}"
        tiles.append(Tile("Users with a list", count(night.lists.users), table))
    elif night.funnel:
        tiles.append(Tile("Users", count(night.funnel["users"]), "none has a list of this run"))
    if not student and night.funnel:
        tiles.append(Tile("Rows read", count(night.funnel["rows_read"]), f"{count(night.funnel['kept'])} kept"))
        if night.previous_funnel and night.previous:
            rows = night.previous_funnel
            tiles.append(
                Tile(
                    f"Rows read on {short_day(night.previous)}", count(rows["rows_read"]), f"{count(rows['kept'])} kept"
                )
            )
    return tiles

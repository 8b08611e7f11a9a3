"""The model card of an export: what the student is, what it was made from, how good it is, and what it cannot do."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdlib.config.data import EVENT_TYPES
from kdlib.metrics.table import label

CARD, TEXT = "card.json", "card.md"
_RUN = ("rows_read", "kept", "duplicate", "quarantined", "users", "interactions", "items", "new_items", "test_users")
_MODEL = ("parameters", "parameters_without_item_tables", "item_table_bytes")
_OPTIONS = ("kind", "block", "dim", "hidden", "layers", "heads", "max_length", "inputs", "session_flag", "user_columns")


@dataclass(frozen=True)
class CardSources:
    """What the facts of a card are taken from."""

    name: str
    """Of the run config."""
    ds: str
    model: Mapping[str, Any]
    """The student's `model.json`."""
    refit: bool
    """The student was trained once more, on all days, after it was judged."""
    recipe: Mapping[str, Any]
    """Teachers and loss."""
    funnel: Mapping[str, Any]
    """From the manifest of the histories."""
    untrained_items: int
    """Items without interactions that the student was trained on."""
    reads_content: bool
    """The student learnt from titles, features or item codes, too."""
    pseudonyms: bool
    min_item_users: int
    metrics: pa.Table
    """METRICS."""
    gates: pa.Table
    """GATES."""
    k: int
    """List length of the NDCG that is judged."""
    check: Mapping[str, Any]
    """From `kdlib.export.check.compare`."""


def write_card(folder: Path, sources: CardSources) -> None:
    """Write `card.json`, and the same for people as `card.md`.

    Args:
      folder: of the export, with all its other files.
      sources: see `CardSources`.
    """
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    facts = _facts(sources) | {"files": files}
    (folder / CARD).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / TEXT).write_text("\n".join(_lines(facts)) + "\n", encoding="utf-8")


def _facts(one: CardSources) -> dict[str, Any]:
    rows, ndcg = one.metrics.to_pylist(), f"ndcg@{one.k}"
    measured = [row for row in rows if row["metric"] in (ndcg, f"recall@{one.k}", f"coverage@{one.k}")]
    # the slices of the NDCG, and the recall by type of the next event
    by_user = [row for row in rows if row["model"] == "student" and row["metric"].startswith(f"{ndcg}/")]
    by_type = [row for row in rows if row["model"] == "student" and row["metric"].partition("/")[2] in EVENT_TYPES]
    return {
        "name": one.name,
        "ds": one.ds,
        "student": {
            "version": one.model["version"],
            "trained_on_all_days": one.refit,
            **{name: one.model[name] for name in _MODEL},
            **{name: one.model["options"][name] for name in _OPTIONS},
        },
        "recipe": dict(one.recipe),
        "data": {
            "first_event": one.funnel.get("first_event"),
            "last_event": one.funnel.get("last_event"),
            **{name: one.funnel[name] for name in _RUN if name in one.funnel},
            "quarantined_by_reason": one.funnel.get("reasons", {}),
            "items_without_training_interactions": one.untrained_items,
        },
        "quality": measured,
        "quality_by_segment": [row for row in by_user + by_type if row["metric"].startswith(("ndcg@", "recall@"))],
        "gates": [{name: row[name] for name in ("gate", "status", "text")} for row in one.gates.to_pylist()],
        "lists_equal_to_the_table": dict(one.check),
        "privacy": {"pseudonyms": one.pseudonyms, "min_item_users": one.min_item_users},
        "limits": list(_limits(one)),
    }


def _limits(one: CardSources) -> Iterator[str]:
    yield f"It knows the items of {one.ds}. A later item has no vector before the next run."
    if one.untrained_items and one.reads_content:
        yield (
            f"{one.untrained_items:,} items have no training interactions. The student places them by their titles, features or"
            " codes alone."
        )
    elif one.untrained_items:
        yield (
            f"{one.untrained_items:,} items have no training interactions. The student has learnt nothing about them: their"
            " places in lists mean nothing."
        )
    yield "A user without a known item gets the popular items. The student says nothing about new users."
    yield f"It reads the last {one.model['options']['max_length']} interactions of a history."
    yield "The metrics are about the next item that test users touched. They do not say what lists do to sales."
    if one.refit:
        yield "The metrics are those of the student before it was trained again on all days."
    if refused := one.check["refused"]:
        yield (
            f"{refused:,} of the users compared have rules that choose items together (at_most, new_items, pins). The graphs"
            " cannot apply these rules, and the reference reader refuses such users."
        )
    if (found := one.check.get("int8")) and found["equal_lists"] is not None:
        yield (
            f"With the int8 graphs {found['equal_lists']:.1%} of the lists equal the table's, and"
            f" {found['shared_items']:.1%} of the table's items are in them."
        )


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    student, data, recipe, privacy = (facts[name] for name in ("student", "data", "recipe", "privacy"))
    yield f"# Model card: the student of {facts['name']}, {facts['ds']}"
    yield ""
    yield (
        f"Version {student['version']}: {_kind(student)}, item vectors of width {student['dim']}, {student['parameters']:,} parameters,"
        f" {student['parameters_without_item_tables']:,} of them outside the item tables. It recommends the next item."
    )
    yield from _section("Data")
    yield f"- Events from {data['first_event']} to {data['last_event']} (UTC)."
    yield "- " + ", ".join(f"{name.replace('_', ' ')} {data[name]:,}" for name in _RUN if name in data) + "."
    if reasons := data["quarantined_by_reason"]:
        yield "- Quarantined: " + ", ".join(f"{name} {count:,}" for name, count in sorted(reasons.items())) + "."
    yield from _section("Recipe")
    yield from (f"- {name.replace('_', ' ')}: {value}" for name, value in recipe.items() if name != "teachers")
    yield from (f"- teacher {one['name']}: {', '.join(map(str, list(one.values())[1:]))}" for one in recipe["teachers"])
    yield from _section("Quality")
    yield "Test users have one next item each, and all items are ranked. Intervals are 95%, by bootstrap over users."
    yield ""
    yield from _table(facts["quality"])
    if facts["quality_by_segment"]:
        yield from _section("Quality by segment")
        yield from _table(facts["quality_by_segment"])
    yield from _section("Gates")
    yield from (f"- {gate['gate']}: {gate['status']}. {gate['text']}" for gate in facts["gates"])
    yield from _section("Files")
    yield from (f"- `{name}`: {size:,} bytes" for name, size in facts["files"].items())
    if (check := facts["lists_equal_to_the_table"])["users"]:
        yield ""
        yield (
            f"ONNX Runtime made the lists of {check['users']:,} users from these files: {check['float32']['equal_lists']:.1%} of them"
            " equal the lists of the table `recommendations`."
        )
    yield from _section("Limits")
    yield from (f"- {line}" for line in facts["limits"])
    yield from _section("Privacy and licence")
    ids = "pseudonyms of users" if privacy["pseudonyms"] else "the shop's own user ids"
    yield f"- The files hold no users and no histories. The run's tables hold {ids}."
    yield "- The weights were learnt from users' events. Forgetting a user does not change them; the next training does."
    if privacy["min_item_users"]:
        yield f"- An item that fewer than {privacy['min_item_users']} users have touched is in nobody's list."
    yield "- distilrec has the MIT licence. This card grants no rights to the model or to the shop's data."


def _section(title: str) -> tuple[str, ...]:
    return ("", f"## {title}", "")


def _kind(student: Mapping[str, Any]) -> str:
    if student["kind"] != "transformer":
        return f"{student['kind'].upper()} with {student['layers']} layer(s)"
    return f"Transformer ({student['block']}) with {student['layers']} layer(s)"


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| model | metric | value | interval | users |"
    yield "| --- | --- | --- | --- | --- |"
    for row in rows:
        interval = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        model = " − ".join(map(label, row["model"].split(" - ")))
        yield f"| {model} | {row['metric']} | {row['value']:.4f} | {interval} | {row['num_users']:,} |"

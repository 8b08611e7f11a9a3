"""Look at raw files and write a run config for them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jobs.runtime.console import safe, say
from kdlib.config.load import load_config
from kdlib.errors import ConfigError
from kdlib.onboarding.mapping import ROLES, EventsMapping
from kdlib.onboarding.shop import Shop, shop_of

NAME_FORM = "[a-z][a-z0-9_]*"
"""What the name of a run config looks like."""
GENERAL = ("run", "config")
"""Names of files that say nothing about the shop."""


def run(files: Sequence[str], *, out: str | None, name: str | None, columns: Sequence[str] = (), force: bool) -> None:
    """Write the run config of some raw files and print what to check.

    Args:
      files: files, folders, globs or URLs.
      out: the run config to write; None: `NAME.yaml` in the working folder.
      name: of the run config; None: from `out`, or else from the events' path.
      columns: of the events, `ROLE=NAME`, where the guess is wrong.
      force: replace an existing file.

    Raises:
      InputError: a file cannot be used, or no file has events.
      ConfigError: the run config exists, cannot be written, or its name is wrong.
    """
    if name and not re.fullmatch(NAME_FORM, name):
        raise ConfigError(f"--name must be small letters, digits and _, and begin with a letter, found {name!r}")
    if out and not force and Path(out).exists():
        raise _exists(Path(out))
    named = {role: name for role, _, name in (column.partition("=") for column in columns)}
    if any(role not in ROLES or not name for role, name in named.items()):
        raise ConfigError(f"--column must be ROLE=NAME with a role of {', '.join(ROLES)}, found {' '.join(columns)}")
    shop = shop_of(files, name=name or _name_in(out), columns=named)
    path = Path(out or f"{shop.name}.yaml")
    if not force and path.exists():
        raise _exists(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(shop.text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}. Give another place with --out") from None
    try:
        load_config(fresh, expand=False)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _tell(shop, path)


def _name_in(out: str | None) -> str | None:
    """A name for the run config from its file's name: `my-shop.yaml` → `my_shop`. None if it says nothing."""
    name = re.sub(r"\W+", "_", Path(out or "").stem.lower(), flags=re.ASCII).strip("_")
    return name if re.fullmatch(NAME_FORM, name) and name not in GENERAL else None


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists and may hold your changes. Give another file with --out, or replace it with --force"
    )


def _tell(shop: Shop, path: Path) -> None:
    """Print what was found, what is not certain, and the next command."""
    events, source = shop.events, shop.events.source
    unit = "events" if source.form.format == "sequences" else "rows"
    looked_at = f"{'all' if source.whole else 'the first'} {source.num_rows:,} {unit} looked at"
    say(f"events     {source.path} ({source.form.format}; {looked_at})")
    for role, column in _roles(events).items():
        values = source.columns[column].drop_null().slice(0, 1).to_pylist()
        say(f"  {role:<11}{safe(column)}{f', for example {safe(values[0])[:60]}' if values else ''}")
    if shop.catalogue:
        found = shop.catalogue
        say(
            f"catalogue  {found.source.path} ({found.source.form.format}); {found.listed:.1%} of the items seen are listed"
        )
    if shop.period:
        say(f"days       {shop.period.first} to {shop.period.last}; ds: {shop.ds}")
    say(
        f"split      {shop.split.kind}"
        + (f", {shop.split.days} + {shop.split.days} days" if shop.split.kind == "time" else "")
    )
    if shop.doubts:
        say("\nnot certain, please check:")
        for doubt in shop.doubts:
            say(f"- {doubt.setting}: {safe(doubt.text)}")
    say(f"\nwrote {path}\nnext: distilrec validate --config {path}, then: distilrec nightly --config {path}")


def _roles(events: EventsMapping) -> dict[str, str]:
    """Role → column, of an input with columns."""
    found = {"user": events.user, "session": events.session, "item": events.item, "event type": events.event_type}
    days = ("year", "month", "day") if len(events.day_columns) > 1 else ("day",)
    found |= {"time": events.time_column, **dict(zip(days, events.day_columns, strict=False))}
    found |= {"order": events.order_column}
    return {} if events.source.form.format == "sequences" else {role: name for role, name in found.items() if name}

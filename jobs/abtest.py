"""Print what an A/B test has shown, from an exposure log. Nothing is written."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from jobs.runtime.command import Invocation
from jobs.runtime.console import safe, say, warn
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, GateError, InputError
from kdlib.experiments.analysis import Comparison, Groups, compare, control_of, groups_of
from kdlib.experiments.exposures import Columns, Log, Metric, names_of, read_log
from kdlib.experiments.lift import ALARM, MOST_SKEWNESS, Estimate, sample_ratio
from kdlib.experiments.off_policy import judged, overlap, warnings_of
from kdlib.experiments.variants import assigned
from kdlib.privacy.pseudonyms import pseudonym, read_key

USUAL = {"user": "user_id", "variant": "variant", "propensity": "propensity", "target": "target_propensity"}
"""Role of a column → its name, unless the command line gives another."""
ROLES = (*USUAL, "before")
FEW = 3
"""So many users are named."""


def load(invocation: Invocation) -> RunConfig:
    """The run config. The command is about no run: only its own log has a date, today."""
    config = invocation.load()
    return config if config.ds else config.model_copy(update={"ds": datetime.now(UTC).date()})


def run(
    config: RunConfig, exposures: str, *, metrics: Sequence[str], columns: Sequence[str], control: str | None
) -> None:
    """Read an exposure log. Print the lifts, and what another policy would have got.

    Args:
      config: its section `experiment` has the shares, and assigns the variants where the log has none.
      exposures: the path of the log.
      metrics: `revenue`, `clicks/exposures`.
      columns: `ROLE=NAME` each.
      control: the variant to compare with. None: as `control_of`.

    Raises:
      ConfigError: a role is unknown; or neither the log nor the run config has variants.
      InputError: as `read_log`, `groups_of`, `control_of` and `compare`; or a variant is not in the run config.
      GateError: the numbers of users do not fit the shares. All lines are printed before that.
    """
    wanted = [Metric.of(text) for text in dict.fromkeys(metrics)]
    found = _columns(config, exposures, columns)
    by_config = None if found.variant else lambda users: _assigned(config, users)
    log = read_log(exposures, found, wanted, variant_of=by_config if config.experiment else None)
    nameless = f"; {log.nameless:,} more without a user are left out" if log.nameless else ""
    say(f"exposures   {int(log.sums['rows'].sum()):,} of {len(log.users.unique()):,} users{nameless}")
    p_value = 1.0
    if found.variant or config.experiment:
        groups = groups_of(log)
        first = control_of(groups, control)
        p_value = _tell_users(config, groups)
        _tell_lifts(compare(log, found, wanted, groups, control=first), first, before=found.before)
    if found.target:
        _tell_policy(log, wanted)
    if p_value < ALARM:
        shares = (
            "shares of the variants" if config.experiment else "equal shares of a run config without section experiment"
        )
        raise GateError(
            f"do not trust the lift: the numbers of users do not fit the {shares} (chi-square, p = {p_value:.1g} <"
            f" {ALARM:g}). Users of a variant are missing in the log, or came in on another way. Look at"
            " redirects, bots, errors and slow pages of each variant, and at what filters the log"
        )


def _columns(config: RunConfig, exposures: str, given: Sequence[str]) -> Columns:
    """The log's columns: those that are named, and those with a usual name."""
    named = {}
    for text in given:
        role, _, named[role] = text.partition("=")
        if role not in ROLES or not named[role]:
            raise ConfigError(f"--column takes ROLE=NAME, with the role {', '.join(ROLES)}; found {text}")
    there = names_of(exposures)
    found = {role: name for role, name in USUAL.items() if name in there or role == "user"} | named
    pair = {"propensity", "target"}
    if not pair <= found.keys():
        if pair & named.keys():
            raise ConfigError(
                "a policy is judged with two columns: --column propensity=NAME, how likely what was shown was for the logged"
                " policy, and --column target=NAME, how likely it is for the policy to judge. Found one"
            )
        found = {role: name for role, name in found.items() if role not in pair}
    if not (config.experiment or {"variant", "target"} & found.keys()):
        raise ConfigError(
            f"{exposures} has no column {USUAL['variant']}, found {', '.join(map(safe, there))}; and the run config"
            f" {config.name} has no section experiment. Name the column with --column variant=NAME, or give the run config"
            " with --config"
        )
    return Columns(**found)


def _assigned(config: RunConfig, users: pa.Array) -> pa.Array:
    """The variants of users, by the shop's own ids, as the tables of the run have them."""
    assert config.experiment
    ids = users.to_pylist()
    if source := config.privacy.key:
        key = read_key(source)
        ids = [pseudonym(key, one) for one in ids]
    return assigned(ids, salt=config.experiment.salt, shares=config.experiment.shares)


def _tell_users(config: RunConfig, groups: Groups) -> float:
    """Print the users of each variant. Returns the p-value of their numbers."""
    counts = groups.counts
    given = config.experiment.shares if config.experiment else dict.fromkeys(counts, 1 / len(counts))
    if unknown := [name for name in counts if name not in given]:
        raise InputError(
            f"the log has the variant {safe(unknown[0])}, expected {', '.join(given)} (section experiment of the run config"
            f" {config.name}). Give the run config of this test with --config, or name the column with --column variant=NAME"
        )
    if absent := [name for name in given if name not in counts]:
        warn(f"warning: the log has no user of {', '.join(absent)}. The check of the shares is among the others")
    shares = [given[name] for name in counts]
    p_value, total = sample_ratio(list(counts.values()), shares), sum(counts.values())
    for (name, number), share in zip(counts.items(), shares, strict=True):
        say(f"  {safe(name):<12} {number:>12,} users   {number / total:.2%}, expected {share / sum(shares):.2%}")
    say(f"  shares of the users: chi-square, p = {p_value:.3g}")
    if groups.mixed:
        named = ", ".join(map(safe, groups.mixed[:FEW])) + (", …" if len(groups.mixed) > FEW else "")
        warn(f"warning: {len(groups.mixed):,} users are in several variants and are left out: {named}")
    if groups.without:
        warn(f"warning: {groups.without:,} users have no variant and are left out")
    return p_value


def _tell_lifts(found: Sequence[Comparison], control: str, *, before: str | None) -> None:
    for number, one in enumerate(found):
        if number == 0 or one.metric != found[number - 1].metric:
            say(f"{safe(one.metric.name)}{f', adjusted by {safe(before)}' if before else ''}")
            say(f"  {safe(control):<12} {one.control_mean:>12.6g}")
        lift, relative = one.lift, one.lift.relative
        told = (
            "no relative lift: the control's mean may be 0"
            if relative is None
            else f"lift {_interval(relative, '+.2%')}"
        )
        say(
            f"  {safe(one.variant):<12} {one.mean:>12.6g}   {_interval(lift.difference, '+.4g')}   {told}   p ="
            f" {lift.p_value:.3g}{f', Holm {one.holm_p:.3g}' if len(found) > 1 else ''}"
        )
        if abs(lift.skewness) > MOST_SKEWNESS:
            warn(
                f"warning: {safe(one.variant)} has too few users for the large values of {safe(one.metric.outcome)}: its"
                " intervals are too short. Wait for more users, or cap the values in the log"
            )
    if len(found) > 1:
        say(f"{len(found)} comparisons: judge by Holm's p-values. Each interval is that of its comparison alone")


def _tell_policy(log: Log, metrics: Sequence[Metric]) -> None:
    """Print what the policy to judge would have got."""
    users = log.users.dictionary_encode().indices.to_numpy()
    sums = {name: np.bincount(users, values) for name, values in log.sums.items()}
    if not sums["weight"].any():
        raise InputError("the policy to judge would show nothing that was logged: all its propensities are 0")
    found = overlap(sums["weight"], sums["rows"])
    say(
        f"policy to judge: mean weight {_interval(found.mean_weight, '.3f')}; the exposures are worth"
        f" {found.effective_users:,.0f} of {found.logged_users:,.0f} users"
    )
    for text in warnings_of(found):
        warn(f"warning: {text}")
    for outcome in dict.fromkeys(metric.outcome for metric in metrics):
        one = judged(sums[outcome], sums[f"weighted {outcome}"], sums["weight"], sums["rows"])
        say(f"{safe(outcome)} / exposure")
        for name, estimate in zip(("logged", "IPS", "SNIPS", "SNIPS − logged"), one, strict=True):
            say(f"  {name:<15} {_interval(estimate, '.5g')}")


def _interval(found: Estimate, form: str) -> str:
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"

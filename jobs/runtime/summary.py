"""What a run prints at its end."""

from jobs.runtime.console import safe, say, warn
from jobs.runtime.published import REFITTED, better_than_the_student, quality_table
from kdlib.config.run import RunConfig
from kdlib.report.user_text import format_user
from kdlib.report.users import sample_users
from kdlib.store import partitions


def print_summary(config: RunConfig, seconds: dict[str, float]) -> None:
    """Print the quality, the rows, where the tables are, and the seconds of each stage.

    Only a simulated shop's users are printed. Printed lines may be kept where `forget` does not reach.
    """
    say(f"\n=== {config.name}, {config.day} ===")
    if config.input.has_events:
        _recommendations(config)
    if config.search:
        rankings = partitions.manifest_of(config.root, "search_rankings", config.day)
        say(
            f"search    {config.place('search_rankings')}: {rankings.details['answered']:,} of"
            f" {rankings.details['queries']:,} queries, version {rankings.version}"
        )
    say(
        "seconds   "
        + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + f"; in all {sum(seconds.values()):.0f}"
    )
    if config.input.simulate is not None:
        for user_id in sample_users(config.root, config.day):
            say("\n" + format_user(config.root, config.day, user_id, safe=safe))
    elif config.input.has_events:
        say(f"users     not printed: `distilrec show --ds {config.day}` prints some, --user ID one")


def _recommendations(config: RunConfig) -> None:
    histories = partitions.read_manifest(config.root, "histories", config.day)
    recommendations = partitions.read_manifest(config.root, "recommendations", config.day)
    assert histories is not None
    assert recommendations is not None
    say(quality_table(config))
    if config.student.refit:
        say(f"refit     {REFITTED}")
    if better := better_than_the_student(config):
        warn(
            f"warning: {' and '.join(better)} rank better than the student. With few events or little training that can"
            " happen: give the run more events, more epochs or a larger budget_minutes"
        )
    funnel = histories.details["funnel"]
    carried = f" ({funnel['carried']:,} of them by an earlier run)" if funnel.get("carried") else ""
    filtered = f" + {funnel['filtered']:,} filtered" if "filtered" in funnel else ""
    say(
        f"rows      {funnel['rows_read']:,} read{carried} = {funnel['kept']:,} kept + {funnel['duplicate']:,} duplicate"
        f"{filtered} + {funnel['quarantined']:,} quarantined"
    )
    if config.input.events is not None and config.input.events.format == "sequences":
        say(
            "times     made up, because the input has none: a user's last item is on the run's day, each earlier item"
            " one day before"
        )
    say(
        f"table     {config.place('recommendations')}: {recommendations.rows:,} users,"
        f" version {recommendations.version}"
    )
    say(f"quarantine {config.place('quarantine')}")

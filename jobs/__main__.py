"""The console command `distilrec`. `jobs/command_line/` has the commands, each next to those that it belongs to."""

import logging
import sys

import click

from jobs.command_line import begin, cluster, in_use, output_folder, runs, stages
from jobs.runtime.console import in_utf8, say
from kdlib.errors import ConfigError, DistilrecError

GROUPS = {
    "Begin": begin.COMMANDS,
    "Run": runs.COMMANDS,
    "What is in use": in_use.COMMANDS,
    "The output folder": output_folder.COMMANDS,
    "On a Ray cluster": cluster.COMMANDS,
    "Stages, in order": stages.COMMANDS,
}


class _Commands(click.Group):
    """Lists the commands in groups, in the order in which they are declared."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(one.name or "", one.get_short_help_str(90)) for one in commands])


@click.group(
    cls=_Commands,
    commands=[command for commands in GROUPS.values() for command in commands],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="distilrec", prog_name="distilrec")
def cli() -> None:
    """Large-model distillation for recommendation and search, as a nightly batch job.

    `distilrec COMMAND --help` lists a command's options.
    """


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    in_utf8(argv)
    try:
        return cli.main(args=argv, prog_name="distilrec", standalone_mode=False) or 0
    except DistilrecError as error:
        say(f"distilrec: error: {error}", level=logging.ERROR)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return ConfigError.exit_status
    except click.Abort:
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""What a `jobs.runtime.process.StageProcess` does: `python -m jobs.stage_process DESCRIPTOR [OPTION …]`."""

import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from jobs.__main__ import main
from jobs.runtime.spark_session import one_spark


def run_stages(parent: Connection, options: list[str]) -> None:
    """Run each stage that the parent names, and answer with its exit status, until the parent closes the connection."""
    with one_spark(), suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            parent.send(main([parent.recv(), *options]))


if __name__ == "__main__":
    run_stages(Connection(int(sys.argv[1])), sys.argv[2:])

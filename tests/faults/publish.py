"""Deliver the run in use in a process of its own, with short deadlines: `python -m tests.faults.publish ROOT URL`."""

import signal
import sys
from pathlib import Path

from kdlib.errors import DistilrecError
from kdlib.release import delivery
from kdlib.store import objects


def publish(root: Path, url: str) -> int:
    """The exit status, as the command line gives it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    objects.REQUEST_SECONDS, objects.RETRY_SECONDS = 1, 2
    try:
        delivery.deliver(root, url, keep=5, warn=lambda text: print(text, flush=True))
    except DistilrecError as error:
        print(f"distilrec: error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGTERM
    return 0


if __name__ == "__main__":
    sys.exit(publish(Path(sys.argv[1]), sys.argv[2]))

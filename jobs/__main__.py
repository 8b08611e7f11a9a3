"""The console command `distilrec`: `distilrec <job> …` is the same as `python -m jobs.<job> …`."""

import importlib
import sys

from jobs.runtime.console import in_utf8
from jobs.runtime.extras import check_search_extra
from kdlib.errors import ConfigError

JOBS = {
    "nightly": "the whole night: events in, published recommendations out",
    "simulate-events": "write the embedded default input",
    "build-features": "clean and sessionize the clickstream (Spark)",
    "build-queries": "clean the search log and weigh what was clicked after each query (Spark)",
    "train-text-encoder": "train the text encoders in-domain (Ray Train, DeepSpeed)",
    "train-teacher": "train the teachers (Ray Train, DeepSpeed)",
    "cache-teacher": "store the teachers' hidden states (Ray Data)",
    "build-codes": "give each item its codes, for a student with codes (distill does so by itself)",
    "distill": "train the student (Ray Data, Ray Train, DeepSpeed)",
    "evaluate": "measure all models and baselines",
    "benchmark": "train recipes of a student with several seeds and compare them",
    "recommend": "write each user's top-k (Ray Data)",
    "build-products": "the catalogue as search looks through it (Spark)",
    "train-search": "teach the search student and build the search index (Ray Train, DeepSpeed)",
    "rank-search": "write each head query's top-k (Ray Data)",
    "check-gates": "judge input and models before the table goes out",
    "promote": "put the night in use",
    "deliver": "bring the night in use to an object store or another place where others read it",
    "rollback": "put an earlier night in use again",
    "report": "write the night's report, one HTML page",
    "telemetry": "tell monitoring what is published (Prometheus text file)",
    "submit": "run a job of the above on a Ray cluster, follow it, pass its exit status on",
    "status": "list the jobs that were submitted to a Ray cluster",
    "forget": "remove a user from every output",
    "search": "print what the search in use finds",
    "show": "print a user's history and recommendations",
}


def main(argv: list[str] | None = None) -> int:
    in_utf8(argv)
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: distilrec JOB [--config FILE] [--ds YYYY-MM-DD] [--set SECTION.KEY=VALUE …]\n")
        print("\n".join(f"  {name:18} {meaning}" for name, meaning in JOBS.items()))
        print("\n`distilrec JOB --help` lists a job's options.")
        return 0
    if arguments[0] not in JOBS:
        print(f"distilrec: error: unknown job {arguments[0]!r}; the jobs are {', '.join(JOBS)}", file=sys.stderr)
        return 2
    if arguments[0] in ("train-search", "rank-search", "search"):
        try:
            check_search_extra()
        except ConfigError as error:
            print(f"distilrec: error: {error}", file=sys.stderr)
            return error.exit_status
    return importlib.import_module(f"jobs.{arguments[0].replace('-', '_')}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())

"""The program for spark-submit: the stage build-features with its command line, on the Spark that runs it."""

import sys

from jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["build-features", *sys.argv[1:]]))

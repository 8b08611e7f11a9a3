"""The script for spark-submit: the stage build_features with its own command line, on the Spark that submitted it."""

import sys

from jobs.build_features import main

if __name__ == "__main__":
    sys.exit(main())

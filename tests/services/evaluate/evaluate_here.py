"""`mdt evaluate` with a small stand-in for Inception, to be run in processes of its own."""

import os
import sys
import time
import warnings

from mdt_cli.cli.app import run
from mdt_cli.metrics.extractors import weights
from mdt_cli.services.evaluate import feature_shards

warnings.simplefilter("ignore")


def slowly(*arguments: object) -> object:
    for batch in fast(*arguments):
        time.sleep(float(os.environ.get("SLEEP", "0")))
        yield batch


fast = feature_shards.feature_batches

if __name__ == "__main__":
    weights.INCEPTION_SHA256 = os.environ["STAND_IN"]
    feature_shards.ROWS = feature_shards.IN_MEMORY = 8
    feature_shards.feature_batches = slowly
    feature_shards.SECONDS_UNTIL_NOTE = float(os.environ.get("PATIENCE", "60"))
    sys.exit(run(sys.argv[1:]))

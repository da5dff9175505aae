"""How the suite runs in several processes: `pytest -n 2` gives each one thread.

Threads of several processes on the same cores wait for each other actively, which makes the small
networks of the tests many times slower.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

"""How many CPU cores one process of this job may use."""

import os


def own_cores() -> int:
    """This machine's cores that the job may run on, shared among its processes here; at least 1."""
    # macOS has no affinity: every core is allowed.
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

"""Tries each reader on thousands of damaged and foreign files: `python benchmarks/fuzz.py 5000`.

Each input is read in a forked worker under a limit of memory and of time. Right are a result and an
MdtError; any other exception, a kill, more than 5 s of processor time or more than 1 GiB is a
fault, and printed with the seed that makes the input again.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from benchmarks.fuzz_inputs import flipped
from benchmarks.fuzz_targets import TARGETS, Target
from mdt_cli.errors import MdtError

SECONDS, BYTES, AT_ONCE = 5, 1 << 30, 100
PACKAGE = str(Path(__file__).resolve().parents[1] / "mdt_cli")


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    read: int = 0
    refused: int = 0
    faults: int = 0
    slowest: float = 0.0
    most_bytes: int = 0
    branches: int = 0


def one_input(target: Target, seeds: list[bytes], number: int, seed: int) -> bytes:
    """Input `number` of a reader: odd ones are changed in structure."""
    rng = random.Random(seed * 1_000_003 + number)
    data = rng.choice(seeds)
    return target.structured(data, rng) if number % 2 else flipped(data, rng)


def fuzz(name: str, count: int, seed: int = 0, out: Any = sys.stderr) -> Tally:
    """Try `count` inputs of one reader, a hundred to a worker."""
    target, tally = TARGETS[name], Tally()
    seeds = target.seeds()
    lines: set[tuple[str, int]] = set()
    first = 0
    while first < count:
        span = range(first, min(first + AT_ONCE, count))
        first = _worker(target, seeds, span, seed, tally, lines, out, name)
    tally.branches = len(lines)
    return tally


def _worker(
    target: Target,
    seeds: list[bytes],
    span: range,
    seed: int,
    tally: Tally,
    lines: set[tuple[str, int]],
    out: Any,
    name: str,
) -> int:
    """Fork, try the inputs of `span`, and return the number of the next one to try."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe, tempfile.TemporaryDirectory() as folder:
            _try_all(target, seeds, span, seed, Path(folder), pipe)
        os._exit(0)
    os.close(writing)
    done = span.start
    with os.fdopen(reading) as pipe:
        for line in pipe:
            answer = json.loads(line)
            if "lines" in answer:
                lines.update(map(tuple, answer["lines"]))
                continue
            done += 1
            tally.slowest = max(tally.slowest, answer["seconds"])
            tally.most_bytes = max(tally.most_bytes, answer["bytes"])
            if answer["kind"] == "read":
                tally.read += 1
            elif answer["kind"] == "refused":
                tally.refused += 1
            else:
                tally.faults += 1
                print(f"{name}, input {done - 1}, seed {seed}:\n{answer['kind']}", file=out)
            if answer["seconds"] > SECONDS or answer["bytes"] > BYTES:
                tally.faults += 1
                print(f"{name}, input {done - 1}, seed {seed}: {answer}", file=out)
    _, status = os.waitpid(child, 0)
    if status:
        tally.faults += 1
        print(f"{name}, input {done}, seed {seed}: worker ended with {status}", file=out)
        return done + 1
    return span.stop


def _try_all(
    target: Target, seeds: list[bytes], span: range, seed: int, folder: Path, pipe: Any
) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + BYTES + (256 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    reached: dict[CodeType, set[int]] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = folder / target.name
    for number in span:
        path.write_bytes(one_input(target, seeds, number, seed))
        signal.alarm(4 * SECONDS)
        started = time.process_time()
        # Tracing is slow: every tenth input shows what is reached.
        if number % 10 < 2:
            sys.settrace(lambda frame, event, _: _trace(frame, reached))
        try:
            target.read(path)
            kind = "read"
        except MdtError:
            kind = "refused"
        except Exception:  # noqa: BLE001 - this is what is looked for
            kind = traceback.format_exc(limit=-4)
        finally:
            sys.settrace(None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        signal.alarm(0)
        answer = {"kind": kind, "seconds": time.process_time() - started, "bytes": peak << 10}
        print(json.dumps(answer), file=pipe, flush=True)
        for other in folder.iterdir():
            if other.is_file() and not other.is_symlink():
                other.unlink()
    found = [(code.co_filename, n) for code, numbers in reached.items() for n in numbers]
    print(json.dumps({"lines": found}), file=pipe, flush=True)


def _trace(frame: FrameType, reached: dict[CodeType, set[int]]) -> Callable[..., Any] | None:
    if not frame.f_code.co_filename.startswith(PACKAGE):
        return None
    seen = reached.setdefault(frame.f_code, set())

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        # An arc would say more; the lines of a branch are reached or they are not.
        seen.add(frame.f_lineno)
        return local

    return local


def main() -> None:
    """Fuzz all readers, or those named, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| reader | inputs | read | refused | faults | slowest | memory | lines reached |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in options.names or TARGETS:
        t = fuzz(name, options.count, options.seed)
        print(
            f"| {name} | {options.count:,} | {t.read:,} | {t.refused:,} | {t.faults} "
            f"| {t.slowest:.2f} s | {t.most_bytes >> 20} MiB | {t.branches} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Run the sessions of the documentation again and put what they print in their place.

    python docs/refresh.py WORK [PAGE ...]

A session is a block that begins with ```console: its lines after `$ ` are run by bash, one after
the other, and what they print replaces what stands below them. `quickstart.md` runs in WORK itself
and, like all pages, with nothing else on the machine if its times are to mean anything. Every other
page runs in a folder of its own, with copies of what quickstart.md left there, so that it can be
refreshed alone.

A comment before a block, `<!-- shown: 4 + 6 -->`, keeps the first 4 and the last 6 lines of each
output, with [...] between them; `<!-- fails -->` says that its last command must not succeed;
`<!-- before: COMMAND -->` is run first and not shown.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FIRST = "quickstart.md"
# What quickstart.md leaves for the other pages.
LEFT = ("mdt-quickstart", "digits", "digits.zip")
SESSION = re.compile(r"((?:<!-- [^\n]+ -->\n)*)```console\n(.*?)```", re.DOTALL)
BEFORE = re.compile(r"<!-- before: (.+) -->")
SHOWN = re.compile(r"<!-- shown: (\d+) \+ (\d+) -->")
COLUMNS = "100"


def commands(block: str) -> list[str]:
    """The command lines of a session as they stand, with their continuations."""
    found: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif found and found[-1].endswith("\\"):
            found[-1] += "\n" + line
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("pages", nargs="*")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    others = sorted(path.name for path in DOCS.glob("*.md") if path.name != FIRST)
    with tempfile.TemporaryDirectory() as folder:
        environment = environment_of(Path(folder))
        for page in options.pages or [FIRST, *others, "README.md"]:
            refresh(page, work, environment)


def environment_of(folder: Path) -> dict[str, str]:
    """`mdt`, `python` and the launchers of this checkout and of the Python that runs this."""
    for name, words in (("mdt", "-m mdt_cli "), ("python", "")):
        shim = folder / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', "utf-8")
        shim.chmod(0o755)
    path = os.pathsep.join((str(folder), str(Path(sys.executable).parent), os.environ["PATH"]))
    changes = {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": COLUMNS}
    return {**os.environ, **changes}


def refresh(page: str, work: Path, environment: dict[str, str]) -> None:
    path = ROOT / page if page == "README.md" else DOCS / page
    text = path.read_text("utf-8")
    if not SESSION.search(text):
        return
    place = work
    if page != FIRST:
        place = work / "pages" / path.stem
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name in LEFT:
            copy = shutil.copytree if (work / name).is_dir() else shutil.copyfile
            copy(work / name, place / name)

    def run_block(found: re.Match[str]) -> str:
        marks, block = found.groups()
        lines: list[str] = []
        words = commands(block)
        for hidden in BEFORE.findall(marks):
            output(hidden, place, environment, fails=False, marks="")
        for command in words:
            print(f"{page}: {command}", flush=True)
            fails = "<!-- fails -->" in marks and command == words[-1]
            lines += [f"$ {command}", *output(command, place, environment, fails, marks)]
        return f"{marks}```console\n" + "\n".join(lines) + "\n```"

    path.write_text(SESSION.sub(run_block, text), "utf-8")


def output(
    command: str, place: Path, environment: dict[str, str], fails: bool, marks: str
) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{command}"],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if (done.returncode != 0) is not fails:
        sys.exit(f"{command}\n{done.stdout}\nexit code {done.returncode}")
    text = done.stdout.replace(str(place), "...").replace(str(ROOT), "...")
    lines = [line.rstrip() for line in text.strip().splitlines()]
    # A title above a table is padded by an empty line, and so is what follows it.
    lines = [line for k, line in enumerate(lines) if line or (k and lines[k - 1])]
    found = SHOWN.search(marks)
    if found is None:
        return lines
    first, last = int(found[1]), int(found[2])
    if len(lines) <= first + last + 1:
        return lines
    return [*lines[:first], "[...]", *lines[len(lines) - last :]]


if __name__ == "__main__":
    main()

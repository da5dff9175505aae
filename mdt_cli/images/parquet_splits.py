"""Which parquet files of a Hugging Face data set are read: those of one configuration and split."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images.layout import split_of
from mdt_cli.images.reading import AmbiguousSetError, Reading

# What follows the name of a split in that of a file: `train-00000-of-00002-a1b2c3d4e5f60718`.
TAIL = re.compile(r"([-_.]?\d+)?(-of-\d+)?(-[0-9a-f]{16})?$")
# Folders of the `datasets` library that are no configurations.
PLAIN_FOLDERS = ("data", "default")


def one_split(
    paths: Sequence[Path], root: Path, reading: Reading
) -> tuple[list[Path], tuple[str, ...]]:
    """The files to read, and a note where other splits are left out.

    Those that the user's patterns name; else `train` of the only configuration. Raises
    AmbiguousSetError where there are several configurations, or splits of which none is for
    training.
    """
    if reading.only:
        wanted = [file for file in paths if reading.wants(file.relative_to(root).as_posix())]
        if not wanted:
            first = min(file.relative_to(root).as_posix() for file in paths)
            raise MdtError(
                f"{reading.only_option} {' '.join(reading.only)} names none of the {len(paths)} "
                f"parquet files of {root}",
                f"the first is {first}",
            )
        return wanted, ()
    groups: dict[str, dict[str, list[Path]]] = {}
    for file in paths:
        config, split = ("", _first_rules(file, root))
        if not reading.by_first_rules:
            config, split = _config_and_split(file.relative_to(root).as_posix())
        groups.setdefault(config, {}).setdefault(split, []).append(file)
    if len(groups) > 1:
        raise _several_configurations(root, groups, reading)
    (splits,) = groups.values()
    if len(splits) == 1:
        return list(paths), ()
    listed = ", ".join(f"{name} ({len(files)} files)" for name, files in sorted(splits.items()))
    training = ["train"] if "train" in splits else [n for n in splits if split_of(n) == "train"]
    if len(training) != 1:
        split, files = next(iter(splits.items()))
        example = files[0].relative_to(root).as_posix()
        if files[0].name.startswith(f"{split}-"):
            example = f"{example.removesuffix(files[0].name)}{split}-*"
        raise AmbiguousSetError(
            f"{root} holds several splits: {listed}",
            f"choose one: {reading.only_option} '{example}'; "
            f"all of them: {reading.only_option} '*'",
        )
    note = f"{root} holds several splits: {listed}; {training[0]} is taken"
    return splits[training[0]], (f"{note} ({reading.only_option} chooses another)",)


def _first_rules(file: Path, root: Path) -> str:
    return TAIL.sub("", file.stem) or file.relative_to(root).parent.name


def _config_and_split(name: str) -> tuple[str, str]:
    """(configuration, split) of `64/train-00000-of-00002.parquet` or `64/train/0000.parquet`."""
    *folders, file = name.split("/")
    folders = [folder for folder in folders if "=" not in folder]
    split = TAIL.sub("", file.removesuffix(".parquet"))
    if folders and (not split or split_of(split) is None is not split_of(folders[-1])):
        split = folders.pop()
    return "/".join(folder for folder in folders if folder not in PLAIN_FOLDERS), split


def partition(name: str) -> tuple[str, str] | None:
    """Column and value of a partitioned file: (label, cat) of `label=cat/0.parquet`."""
    for folder in name.split("/")[:-1]:
        column, equals, value = folder.partition("=")
        if equals and column and value:
            return column, value
    return None


def _several_configurations(
    root: Path, groups: Mapping[str, Mapping[str, Sequence[Path]]], reading: Reading
) -> AmbiguousSetError:
    listed = ", ".join(
        f"{config or 'beside them'} ({', '.join(sorted(splits))})"
        for config, splits in sorted(groups.items(), key=lambda item: reading.key(item[0]))
    )
    chosen = min(filter(None, groups), key=reading.key)
    folder = root / chosen
    where = f" (or give {folder})" if folder.is_dir() else ""
    return AmbiguousSetError(
        f"{root} holds parquet files of several configurations: {listed}",
        f"choose one: {reading.only_option} '{chosen}/*'{where}; "
        f"all of them: {reading.only_option} '*'",
    )

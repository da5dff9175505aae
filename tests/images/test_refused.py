"""Formats that are known and not read: named, with a way out that works."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.files import SUFFIXES
from mdt_cli.images.reading import Reading
from mdt_cli.images.refused import REFUSED, UNDECODED
from tests.pictures import class_files, write_folder


@pytest.mark.parametrize("end", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_a_packed_tar_is_refused_with_the_command_that_unpacks_it(tmp_path: Path, end: str) -> None:
    write_folder(tmp_path / "in", class_files())
    path = tmp_path / f"my images{end}"
    with tarfile.open(path, f"w:{'gz' if 'g' in end else end.rpartition('.')[2]}") as tar:
        tar.add(tmp_path / "in", "images")
    for asked in (path, tmp_path / "shards"):
        if asked != path:
            asked.mkdir()
            path = path.rename(asked / path.name)
        with pytest.raises(MdtError, match="is a packed tar") as caught:
            open_container(asked)
        hint = str(caught.value.hint)
        subprocess.run(hint[hint.index("mkdir") :], shell=True, check=True)
        images = open_container(Path(hint[hint.index("folder ") + 7 : hint.index(": mkdir")]))
        assert (len(images), images.classes) == (15, ("a", "b", "c"))


@pytest.mark.parametrize("end", [end for ends in (*REFUSED, *UNDECODED) for end in ends])
def test_other_formats_are_named(tmp_path: Path, end: str) -> None:
    name = f"some{end.upper() if end == '.h5' else end}"
    (tmp_path / name).write_bytes(b"content")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(MdtError, match=r"which is not (read|decoded)") as caught:
            open_container(path)
        assert caught.value.hint


def test_images_that_are_not_decoded_beside_others_stop_the_command(tmp_path: Path) -> None:
    files = class_files() | {"a/phone.HEIC": b"x", "b/phone.heic": b"x", "readme.pdf": b"x"}
    write_folder(tmp_path / "images", files)
    with pytest.raises(MdtError, match=r"2 files of HEIC \(\.heic\)") as caught:
        open_images(tmp_path / "images")
    pattern = str(caught.value.hint).rpartition("--only ")[2].strip("'")
    assert len(open_images(tmp_path / "images", Reading(only=(pattern,)))) == 15


def test_the_page_names_every_format() -> None:
    """docs/layouts.md lists what is read and what is refused."""
    page = (Path(__file__).parents[2] / "docs/layouts.md").read_text("utf-8")
    for end in (*SUFFIXES, *(e for ends in (*REFUSED, *UNDECODED) for e in ends)):
        assert f"`{end}`" in page, end


def test_lmdb_is_refused_with_a_command_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "bedroom_lmdb"
    folder.mkdir()
    for name in ("data.mdb", "lock.mdb"):
        (folder / name).write_bytes(b"")
    with pytest.raises(MdtError, match="is an LMDB database") as caught:
        open_container(folder)
    lmdb = pytest.importorskip("lmdb")
    (folder / "data.mdb").unlink()
    files = list(class_files().values())
    with lmdb.open(str(folder)) as database, database.begin(write=True) as rows:
        for k, data in enumerate(files):
            rows.put(b"%d" % k, data)
    hint = str(caught.value.hint)
    subprocess.run(hint[hint.index("python -c") :], shell=True, check=True)
    assert len(open_container(tmp_path / "bedroom_lmdb-images")) == 15

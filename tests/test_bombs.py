"""A few kilobytes that claim gigabytes: refused before they are unpacked."""

import io
import json
import pickle
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mdt_cli.errors import MdtError
from mdt_cli.images.archives import ParquetReader
from mdt_cli.images.containers import open_container
from mdt_cli.images.npz import from_npz, load_arrays
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.services.inspection.inspect import inspect
from mdt_cli.untrusted import read_foreign
from tests.pictures import png

MIB = 1 << 20


@pytest.fixture(autouse=True)
def little_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing here may need 300 MiB more than the process has, but for pyarrow's own pools."""
    if "cells" in request.node.name:
        yield
        return
    pages = Path("/proc/self/statm").read_text("ascii").split()[0]
    now = int(pages) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 300 * MIB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def zeros(archive: zipfile.ZipFile, name: str, size: int) -> None:
    with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))


def packed(path: Path, name: str, size: int, others: dict[str, bytes] | None = None) -> None:
    """A zip with `size` zeros, deflated, under `name`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, data in (others or {}).items():
            archive.writestr(other, data)
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as file:
            for _ in range(size // MIB):
                file.write(bytes(MIB))


def test_a_pickle_of_zeros(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    packed(file, "archive/data.pkl", 32 * MIB, {"archive/version": b"3\n"})
    assert file.stat().st_size < MIB
    with pytest.raises(MdtError, match=r"pickle archive/data.pkl has 33,554,432 bytes"):
        read_foreign(file)


def test_a_checkpoint_that_was_packed_again(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(4)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(MdtError, match="was packed again"):
        read_foreign(tmp_path / "b.pt")


def test_a_tensor_larger_than_its_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 34)}, tmp_path / "a.pt")
    with pytest.raises(MdtError, match="claims 17,179,869,184 values for one tensor"):
        read_foreign(tmp_path / "a.pt")
    torch.save({"a": torch.zeros(1).expand(100), "b": [torch.ones(2)]}, tmp_path / "a.pt")
    assert read_foreign(tmp_path / "a.pt")["a"].shape == (100,)


def test_bytes_that_ask_for_memory(tmp_path: Path) -> None:
    class Large:
        def __reduce__(self) -> tuple[object, ...]:
            return bytearray, (1 << 40,)

    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Large(), protocol=2))
        archive.writestr("archive/version", "3\n")
    with pytest.raises(MdtError):
        read_foreign(tmp_path / "a.pt")


@pytest.mark.parametrize("call", [open_container, inspect])
def test_a_list_of_labels_in_a_zip(tmp_path: Path, call: Callable[[Path], object]) -> None:
    packed(tmp_path / "a.zip", "dataset.json", 100 * MIB, {"a/0.png": png(0)})
    try:
        found: object = call(tmp_path / "a.zip")
        found = getattr(found, "fault", "")
    except MdtError as error:
        found = error
    assert "dataset.json" in str(found)


def test_what_a_program_records(tmp_path: Path) -> None:
    packed(tmp_path / "a.pt2", "archive/extra/mdt.json", 100 * MIB)
    with pytest.raises(MdtError, match="larger than 64 MiB"):
        inspect(tmp_path / "a.pt2")


def test_an_image_of_zeros_in_a_zip(tmp_path: Path) -> None:
    packed(tmp_path / "a.zip", "a/1.png", 100 * MIB, {"a/0.png": png(0)})
    images = open_container(tmp_path / "a.zip")
    (_, good), (name, bad) = images.read(range(2))
    assert good == png(0)
    assert name.endswith("1.png")
    assert isinstance(bad, UnreadableError)
    assert "bomb" in str(bad)


def npy(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "shape",
    [
        (10**12, 8, 8, 3),
        (10**18, 8, 8, 3),
        (2**62, 2**62, 2**62, 3),
        (1, 10**6, 10**6, 3),
        (10**9, 1, 1, 1),
        (-1, 8, 8, 3),
    ],
    ids=str,
)
def test_arrays_that_claim_more_than_they_hold(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            archive.writestr("arr_0.npy", npy(shape) + bytes(4096))
        with pytest.raises(MdtError):
            list(from_npz(tmp_path / "a.npz").read(range(3)))
        inspect(tmp_path / "a.npz")


def test_statistics_of_zeros(tmp_path: Path) -> None:
    size = 8 * 3400 * 3400 // MIB * MIB
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("sigma.npy")
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as file:
            file.write(npy((3400, 3400), "<f8"))
            for _ in range(size // MIB):
                file.write(bytes(MIB))
    with pytest.raises(MdtError, match="decompression bomb"):
        load_arrays(tmp_path / "a.npz", frozenset({"sigma"}))


def test_a_directory_that_lies_about_sizes(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", png(0))
        archive.writestr("a/1.png", png(1))
    data = file.read_bytes()
    place = data.index(b"PK\x01\x02")
    for offset in (20, 24):  # the packed and the unpacked size
        changed = bytearray(data)
        changed[place + offset : place + offset + 4] = struct.pack("<I", 2**31)
        file.write_bytes(changed)
        with pytest.raises(MdtError, match="cannot have"):
            open_container(file)


def test_a_tar_that_leads_back(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a/0.png")
        info.size = len(png(0))
        info.pax_headers = {"size": "-1024"}
        tar.addfile(info, io.BytesIO(png(0)))
    (tmp_path / "a.tar").write_bytes(made.getvalue())
    with pytest.raises(MdtError, match=r"cannot read .*a.tar|holds no images"):
        open_container(tmp_path / "a.tar")


def test_cells_of_many_megabytes(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    cells = pyarrow.array([bytes(40 * MIB)], pyarrow.binary())
    pq.write_table(pyarrow.table({"image": cells}), file, compression="zstd")
    assert file.stat().st_size < MIB
    reader = ParquetReader((file,), "image")
    with pytest.raises(UnreadableError, match="too large to be read"):
        reader.read((0, 0, 0))
    data = file.read_bytes()
    file.write_bytes(data[:4] + bytes(100) + data[104:])
    with pytest.raises(UnreadableError):
        reader.read((0, 0, 0))
    assert json.dumps(inspect(file).facts["unreadable"])

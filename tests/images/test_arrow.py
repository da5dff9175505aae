"""Data sets of the `datasets` library as save_to_disk leaves them, written here without it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.reading import Reading
from tests.pictures import png

pa = pytest.importorskip("pyarrow")

NAMES = ["cat", "dog", "eel"]
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
}


def save(folder: Path, first: int = 0, counts: tuple[int, ...] = (4, 3), **state: object) -> Path:
    folder.mkdir(parents=True)
    files = []
    for k in range(len(counts)):
        name = f"data-{k:05d}-of-{len(counts):05d}.arrow"
        numbers = range(first + sum(counts[:k]), first + sum(counts[: k + 1]))
        rows = [{"bytes": png(n), "path": None} for n in numbers]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"image": pa.array(rows, kind), "label": [n % 3 for n in numbers]})
        known = json.dumps({"info": {"features": FEATURES}})
        table = table.replace_schema_metadata({"huggingface": known})
        file = str(folder / name)
        with pa.OSFile(file, "wb") as out, pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
        files.append({"filename": name})
    plain = {"_data_files": files, "_fingerprint": "0", "_split": "train"}
    (folder / "state.json").write_text(json.dumps({**plain, **state}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


def test_every_row_with_its_class(tmp_path: Path) -> None:
    images = open_container(save(tmp_path / "set"))
    assert (images.kind, images.classes) == ("arrow", tuple(NAMES))
    assert images.labels == [0, 1, 2, 0, 1, 2, 0]
    assert images.names[4] == "data-00001-of-00002.arrow[0]"
    assert [raw for _, raw in images.read(range(7))] == [png(n) for n in range(7)]
    assert [raw for _, raw in images.read([6, 0])] == [png(6), png(0)]
    images.close()


def test_the_files_are_those_of_the_state_in_its_order(tmp_path: Path) -> None:
    """More than nine files, and a leftover of an earlier save that the state does not list."""
    folder = save(tmp_path / "set", counts=(1,) * 12)
    (folder / "cache-0.arrow").write_bytes(b"leftover")
    images = open_container(folder)
    assert [raw for _, raw in images.read(range(12))] == [png(n) for n in range(12)]


def test_of_several_splits_train_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for first, split in ((0, "train"), (50, "test")):
        save(root / split, first)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    images = open_container(root)
    assert "train is taken" in images.notes[0]
    assert next(images.read([0]))[1] == png(0)
    assert next(open_container(root, Reading(only=("test",))).read([0]))[1] == png(50)
    (root / "train").rename(root / "validation")
    with pytest.raises(MdtError, match="several splits: test, validation") as caught:
        open_container(root)
    assert len(open_container(Path(str(caught.value.hint).split(": ")[1]))) == 7


def test_rows_without_bytes_are_unreadable(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", counts=(1,))
    rows = pa.array([{"bytes": None, "path": "gone.png"}, None, {"bytes": png(1), "path": None}])
    table = pa.table({"image": rows, "label": [0, 1, 2]})
    file = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(file, "wb") as out, pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    found = [raw for _, raw in open_container(folder).read(range(3))]
    assert [type(raw) for raw in found] == [UnreadableError, UnreadableError, bytes]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "mapping of its rows"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow is missing"),
        ({"_data_files": [{"filename": "../set/../state.arrow"}]}, "missing"),
        ({"_data_files": None}, "missing"),
        ({"_data_files": 3}, "lists no files"),
        ({"_data_files": [3]}, "lists no files"),
    ],
)
def test_states_that_cannot_be_followed(
    tmp_path: Path, state: dict[str, object], message: str
) -> None:
    with pytest.raises(MdtError, match=message):
        open_container(save(tmp_path / "set", **state))


@pytest.mark.parametrize("damage", [b"", b"ARROW1", b"\xff\xff\xff\xff\x70\0\0\0"])
def test_damaged_files_are_named(tmp_path: Path, damage: bytes) -> None:
    folder = save(tmp_path / "set")
    file = folder / "data-00001-of-00002.arrow"
    file.write_bytes(damage)
    with pytest.raises(MdtError, match="data-00001-of-00002"):
        open_container(folder)
    file.write_bytes(b"")
    (folder / "state.json").write_text("{")
    with pytest.raises(MdtError, match=r"state\.json"):
        open_container(folder)


def test_it_is_encoded_by_worker_processes(tmp_path: Path) -> None:
    from mdt_cli.artifacts.latent_cache.read import open_cache
    from mdt_cli.services.encode.encode import encode_latents
    from mdt_cli.services.encode.request import EncodeRequest

    folder = save(tmp_path / "set")
    list(encode_latents(EncodeRequest(folder, tmp_path / "cache", size=16, workers=2)))
    cache = open_cache(tmp_path / "cache")
    assert cache.facts.class_names == tuple(NAMES)
    rows = cache.read(torch.tensor([6]))
    expected = np.asarray(Image.open(io.BytesIO(png(6)))).transpose(2, 0, 1)
    assert np.array_equal(((rows.mean[0] + 1) * 127.5).round().numpy(), expected)

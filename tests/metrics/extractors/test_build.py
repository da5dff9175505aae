import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from PIL import Image

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.sized import sized
from mdt_cli.metrics.extract import Extracted, extract
from mdt_cli.metrics.extractors import weights
from mdt_cli.metrics.extractors.build import Extractor, build_extractor, extract_batch
from tests.metrics.stand_in import StandIn, write_stand_in
from tests.pictures import array, png, write_folder

CPU = torch.device("cpu")
IMAGENET = Path(__file__).parents[3].parent / "shared" / "data" / "imagenet-sample.zip"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "inception.pt"
    monkeypatch.setattr(weights, "INCEPTION_SHA256", write_stand_in(file))
    return file


def graph(file: Path) -> StandIn:
    network = StandIn()
    network.load_state_dict(torch.jit.load(str(file)).state_dict())
    return network


def run(images: Path, extractor: Extractor, batch_size: int) -> Extracted:
    work = extract(sized(open_images(images)), extractor, CPU, batch_size, keep=True)
    while True:
        try:
            next(work)
        except StopIteration as finished:
            return finished.value


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore::DeprecationWarning")
def test_clean_resizing_is_clean_fids(stand_in: Path) -> None:
    extractor = build_extractor("inception", CPU, stand_in, "clean")
    picture = array(0, 40, 40)
    found = extract_batch(extractor, torch.from_numpy(extractor.prepare(picture))[None])
    resized = torch.from_numpy(build_resizer("clean")(picture)).permute(2, 0, 1)[None]
    expected = graph(stand_in).layers((resized - 128) / 128).reshape(1, 64)
    assert (found - expected).abs().max() < 1e-5
    assert extractor.bias_C is None
    assert extractor.dimensions == 64


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore::DeprecationWarning")
def test_legacy_resizing_is_the_graphs_own(stand_in: Path) -> None:
    extractor = build_extractor("inception", CPU, stand_in, "legacy_tensorflow")
    picture = array(0, 40, 40)
    prepared = torch.from_numpy(extractor.prepare(picture))[None]
    assert prepared.shape == (1, 3, 40, 40)
    expected = graph(stand_in)(prepared, return_features=True)
    assert (extract_batch(extractor, prepared) - expected).abs().max() < 1e-5


def test_a_module_that_is_not_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other.pt"
    file.write_bytes(b"something else")
    monkeypatch.setattr(weights, "INCEPTION_SHA256", weights.sha256_of(file))
    with pytest.raises(MdtError, match="is not the TorchScript Inception"):
        build_extractor("inception", CPU, file)


def test_no_batch_size_changes_a_bit(tmp_path: Path) -> None:
    """Through the real network: convolutions must not round by the company an image keeps."""
    extractor = build_extractor("efficientnet-lite0", CPU)
    write_folder(tmp_path, {f"{i}.png": png(i, 8, 8) for i in range(9)})
    whole = run(tmp_path, extractor, 4)
    for batch_size in (1, 2, 3, 9):
        found = run(tmp_path, extractor, batch_size)
        assert torch.equal(found.features_ND, whole.features_ND)
        assert torch.equal(found.statistics.sigma_DD, whole.statistics.sigma_DD)
        assert found.statistics.digest == whole.statistics.digest


def test_file_order_does_not_matter(tmp_path: Path) -> None:
    extractor = build_extractor("efficientnet-lite0", CPU)
    names = [png(i, 8, 8) for i in range(6)]
    write_folder(tmp_path / "a", {f"{i}.png": data for i, data in enumerate(names)})
    write_folder(tmp_path / "b", {f"{9 - i}.png": data for i, data in enumerate(names)})
    one, other = run(tmp_path / "a", extractor, 4), run(tmp_path / "b", extractor, 4)
    assert torch.equal(one.features_ND, other.features_ND)
    assert one.statistics.digest == other.statistics.digest
    assert (one.statistics.sigma_DD - other.statistics.sigma_DD).abs().max() < 1e-13


def test_nan_features_name_the_image(tmp_path: Path) -> None:
    whole = build_extractor("efficientnet-lite0", CPU)

    def broken(images_B3HW: torch.Tensor) -> torch.Tensor:
        features_BD = images_B3HW.mean((2, 3)).repeat(1, 427)[:, :1280]
        return torch.where(features_BD[:, :1] > 100, torch.nan, features_BD)

    extractor = Extractor(**{**vars(whole), "features": broken})
    files = {"a.png": np.zeros((8, 8, 3)), "b.png": np.full((8, 8, 3), 200)}
    for name, values in files.items():
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / name)
    with pytest.raises(MdtError, match=r"the features of b.png are NaN"):
        run(tmp_path, extractor, 2)


@pytest.mark.slow
@pytest.mark.skipif(not IMAGENET.is_file(), reason="needs the ImageNet sample")
def test_preprocessing_is_right_because_the_classifier_is() -> None:
    """One training image per class, folders in ImageNet's order; without antialiasing, with other
    scaling or with swapped channels the share right falls by several points to tens."""
    extractor = build_extractor("efficientnet-lite0", CPU)
    squares = []
    with zipfile.ZipFile(IMAGENET) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".JPEG")):
            with Image.open(io.BytesIO(archive.read(name))) as opened:
                image = opened.convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = np.asarray(image.crop((left, top, left + side, top + side)))
            squares.append(torch.from_numpy(extractor.prepare(square)))
    features = torch.cat([extract_batch(extractor, part) for part in torch.stack(squares).split(4)])
    assert extractor.bias_C is not None
    answers = (features @ extractor.head_CD.T + extractor.bias_C).argmax(1)
    assert len(answers) == 1000
    assert int((answers == torch.arange(1000)).sum()) >= 850

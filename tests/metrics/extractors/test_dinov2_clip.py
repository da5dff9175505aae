"""DINOv2 and CLIP from folders, tiny and random; the libraries are optional."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdt_cli.errors import MdtError
from mdt_cli.metrics.extractors import dinov2_clip as transformers_source
from mdt_cli.metrics.extractors.build import build_extractor, extract_batch
from tests.pictures import array
from tests.reference import metrics as reference

CPU = torch.device("cpu")
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def dinov2_folder(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    network = transformers.Dinov2Model(config).eval()
    # At its start every block is all but switched off.
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "layer_scale" in name:
                value.fill_(1.0)
            value += torch.randn(value.shape) * 0.05
    network.save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def published_places(learnt_1ND: torch.Tensor) -> torch.Tensor:
    """16 x 16 places of a learnt grid, by a restated rule: a scale of 16.1 over its side."""
    side = int((learnt_1ND.shape[1] - 1) ** 0.5)
    grid = learnt_1ND[0, 1:].detach().double().numpy().reshape(side, side, -1)
    weights = reference.plain_cubic(side, 16, 16.1 / side)
    resized = np.einsum("sh,tw,hwd->std", weights, weights, grid).reshape(1, 256, -1)
    return torch.cat([learnt_1ND[:, :1], torch.from_numpy(resized).float()], 1).detach()


def test_dinov2_is_the_class_token_after_the_last_norm(dinov2_folder: Path) -> None:
    import transformers

    extractor = build_extractor("dinov2", CPU, dinov2_folder)
    assert extractor.name.startswith("dinov2-")
    assert len(extractor.name) == len("dinov2-") + 8
    assert (extractor.dimensions, extractor.head_CD, extractor.spatial) == (24, None, 0)
    prepared = torch.from_numpy(extractor.prepare(array(0, 40, 40)))[None]
    assert prepared.shape == (1, 3, 224, 224)
    network = transformers.Dinov2Model.from_pretrained(dinov2_folder).eval()
    with torch.no_grad():
        by_library = network((prepared / 255 - MEAN) / STD).last_hidden_state
        network.embeddings.position_embeddings.data = published_places(
            network.embeddings.position_embeddings
        )
        hidden = network((prepared / 255 - MEAN) / STD).last_hidden_state
    found = extract_batch(extractor, prepared)
    assert (found - by_library[:, 0]).abs().max() > 1e-4
    assert (found - hidden[:, 0]).abs().max() < 1e-5
    assert (found - hidden.mean(1)).abs().max() > 1e-2


def test_dinov2_through_timm_has_the_published_places(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    settings = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    network = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, num_classes=0, **settings
    ).eval()
    # At its start every block is all but switched off, and the token sees no place.
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(".gamma"):
                value.fill_(1.0)
            value += torch.randn(value.shape) * 0.05
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    about = {
        "architecture": "vit_small_patch14_dinov2",
        "num_classes": 0,
        "model_args": settings,
        "pretrained_cfg": {"input_size": [3, 518, 518], "num_classes": 0},
    }
    (folder / "config.json").write_text(json.dumps(about))
    extractor = build_extractor("dinov2", CPU, folder)
    assert extractor.dimensions == 24
    prepared = torch.from_numpy(extractor.prepare(array(0, 40, 40)))[None]
    same = timm.create_model(
        "vit_small_patch14_dinov2",
        pretrained=False,
        num_classes=0,
        img_size=224,
        **settings,
    ).eval()
    same.load_state_dict({**network.state_dict(), "pos_embed": published_places(network.pos_embed)})
    with torch.no_grad():
        expected = same((prepared / 255 - MEAN) / STD)
    assert (extract_batch(extractor, prepared) - expected).abs().max() < 1e-5


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=10,
    )
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_clip_is_the_embedding_of_length_one(clip_folder: Path) -> None:
    import transformers

    extractor = build_extractor("clip", CPU, clip_folder)
    assert extractor.name.startswith("clip-")
    assert (extractor.dimensions, extractor.input_size, extractor.resize) == (10, 28, "cmmd")
    prepared = torch.from_numpy(extractor.prepare(array(0, 40, 40)))[None]
    found = extract_batch(extractor, prepared)
    assert found.norm() == pytest.approx(1, abs=1e-6)
    processor = transformers.CLIPImageProcessor(
        do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=True
    )
    inputs = processor(images=(prepared / 255).numpy(), return_tensors="pt")
    network = transformers.CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        embeds = network(pixel_values=inputs["pixel_values"].float()).image_embeds
    assert (found - embeds / embeds.norm()).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_absent_weights_say_where_they_belong(name: str, tmp_path: Path) -> None:
    with pytest.raises(MdtError, match=f"the weights of {name} were not found") as told:
        build_extractor(name, CPU)
    assert told.value.hint is not None
    assert "--weights FOLDER" in told.value.hint
    assert str(tmp_path / "cache" / "mdt" / name) in told.value.hint
    file = tmp_path / "x.pth"
    file.write_bytes(b"")
    with pytest.raises(MdtError, match="is a file, not a folder"):
        build_extractor(name, CPU, file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MdtError, match=r"does not hold both config.json and model.safetensors"):
        build_extractor(name, CPU, tmp_path / "empty")


def test_weights_of_another_model_and_broken_ones(
    clip_folder: Path, dinov2_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(MdtError, match="holds a model of type clip_vision_model, not DINOv2"):
        build_extractor("dinov2", CPU, clip_folder)
    with pytest.raises(MdtError, match="holds a model of type dinov2, not CLIP"):
        build_extractor("clip", CPU, dinov2_folder)
    weights = dinov2_folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(MdtError, match=r"the weights in .*dino cannot be loaded"):
        build_extractor("dinov2", CPU, dinov2_folder)
    weights.write_bytes(whole)
    (dinov2_folder / "config.json").write_text("{")
    with pytest.raises(MdtError, match=r"the weights in .*dino cannot be loaded"):
        build_extractor("dinov2", CPU, dinov2_folder)


def test_an_absent_library_is_named(
    dinov2_folder: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_source.importlib.util, "find_spec", lambda name: None)
    for name, folder in (("dinov2", dinov2_folder), ("clip", clip_folder)):
        with pytest.raises(MdtError, match=f"the extractor {name} needs transformers") as told:
            build_extractor(name, CPU, folder)
        assert told.value.hint is not None
        assert "pip install transformers" in told.value.hint

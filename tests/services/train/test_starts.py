"""What a stage begins with: units of latents, both kinds of weights, presets as they were."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.run_folder import read_config
from mdt_cli.artifacts.weights import read_tensors
from mdt_cli.config.base import flat
from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError
from mdt_cli.images.decode import read_image
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import Note
from mdt_cli.services.sample.reconstruct import ReconstructRequest, reconstruct
from mdt_cli.services.train.batches import train_data
from mdt_cli.services.train.start import finetune, starting_config
from tests.autoencoders import save_autoencoder
from tests.services.training_kit import SMALL, make_cache, make_images, run

SIZES = ("model.narrow_decoder.depth=1", "model.narrow_decoder.hidden_size=16")
TINY = (
    *(key for key in SMALL if "decoder_depth" not in key and "restore_at" not in key),
    *SIZES,
    "model.narrow_decoder.num_heads=2",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("starts") / "images", per_class=6)


@pytest.fixture(scope="module")
def pixels(pictures: Path) -> Path:
    return make_cache(pictures.parent / "pixels", pictures)


@pytest.fixture(scope="module")
def masked(pixels: Path) -> Path:
    """A run of MaskDiT whose online and EMA weights differ."""
    folder = pixels.parent / "maskdit"
    run(pixels, folder, load_config(["maskdit"], [*TINY, "training.steps=3"]))
    return folder


def weights(folder: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return read_tensors(folder / f"checkpoints/step-{step:07d}/{name}.safetensors")


def notes(events: list[object]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


@pytest.mark.parametrize("extra", [{"scaling_factor": 0.25}, {"shift_factor": 0.5}])
def test_lmd_is_fed_the_mode_as_the_autoencoder_gives_it(
    extra: dict[str, float], pictures: Path, tmp_path: Path
) -> None:
    import diffusers

    codec = save_autoencoder(tmp_path / "codec", **extra)
    asked = EncodeRequest(pictures, tmp_path / "cache", codec=codec, size=16, dtype="float32")
    list(encode_latents(asked))
    cache = open_cache(tmp_path / "cache")
    config = load_config(["lmd"], ["training.batch_size=4", "model.patch_size=2"]).config
    data = train_data(config, cache, (4, 4))
    read = cache.read(torch.arange(4))
    model = diffusers.AutoencoderKL.from_pretrained(codec)

    names = sorted(pictures.rglob("*.png"))[:4]
    stacked = [torch.from_numpy(read_image(name.read_bytes(), 16).pixels) for name in names]
    with torch.no_grad():
        wanted = model.encode(torch.stack(stacked).float() / 127.5 - 1).latent_dist.mode()
    torch.testing.assert_close(
        data.clean_latents(read, torch.Generator()), wanted, atol=1e-4, rtol=0
    )
    assert (wanted - read.mean).abs().max() > 0.1
    drawn = config.data.model_copy(update={"posterior": "sample"})
    other = train_data(config.model_copy(update={"data": drawn}), cache, (4, 4))
    assert (other.clean_latents(read, torch.Generator()) - wanted).abs().max() > 0.01


def test_unscaled_latents_are_restored_in_the_units_of_the_codec(
    pictures: Path, tmp_path: Path
) -> None:
    codec = save_autoencoder(tmp_path / "codec", scaling_factor=0.25)
    list(encode_latents(EncodeRequest(pictures, tmp_path / "cache", codec=codec, size=16)))
    found = []
    for units in ("scaled", "unscaled"):
        keys = [*TINY, "model.patch_size=2", "training.steps=1", f"data.latents={units}"]
        run(tmp_path / "cache", tmp_path / units, load_config(["lmd"], keys))
        asked = ReconstructRequest(
            tmp_path / units, tmp_path / f"{units}-out", pictures, mask_ratio=0.0, device="cpu"
        )
        list(reconstruct(asked))
        image = np.asarray(Image.open(tmp_path / f"{units}-out" / "000000.png"))
        found.append(image.astype(int))
    # With nothing hidden both decode the same latents.
    assert abs(found[0] - found[1]).max() <= 1


def test_unscaled_latents_are_not_for_objectives_that_generate() -> None:
    with pytest.raises(MdtError, match=r'data\.latents "unscaled" is for objectives that generate'):
        load_config(["dit"], ["data.latents=unscaled"])


def tune(source: Path, target: Path, *keys: str, ema: str | None = None) -> list[object]:
    words = ["training.steps=1", "optimizer.lr=1e-30", *keys]
    loaded = starting_config(source, ema, ["maskdit-finetune"], words, target)
    return list(finetune(source.parent / "pixels", target, source, ema, loaded))


def test_online_weights_start_from_online_ones_and_ema_weights_from_ema_ones(
    masked: Path, tmp_path: Path
) -> None:
    said = notes(tune(masked, tmp_path / "run", "training.batch_size=8"))
    assert said.count("dropped") == 1
    online = weights(masked, 3, "weights")
    for name, decay in (("ema-0.9", 0.9), ("ema-0.99", 0.99)):
        before, after = weights(masked, 3, name), weights(tmp_path / "run", 1, name)
        assert any((before[k] - online[k]).abs().max() > 1e-5 for k in after)
        for key, tensor in after.items():
            blended = decay * before[key] + (1 - decay) * online[key]
            torch.testing.assert_close(tensor, blended, atol=1e-7, rtol=1e-6)
    after = weights(tmp_path / "run", 1, "weights")
    for key, tensor in after.items():
        torch.testing.assert_close(tensor, online[key], atol=1e-7, rtol=0)


def test_both_weights_have_to_be_there(masked: Path, tmp_path: Path) -> None:
    with pytest.raises(MdtError, match=r"needs the EMA weights 0\.5, and .* has 0\.9, 0\.99") as e:
        tune(masked, tmp_path / "run", "training.batch_size=8", "ema.decays=[0.5]")
    assert e.value.hint is not None
    assert "ema.decays=[0.9, 0.99]" in e.value.hint
    assert not (tmp_path / "run").exists()


def test_one_file_or_a_choice_is_the_start_of_both(masked: Path, tmp_path: Path) -> None:
    file = tmp_path / "only.safetensors"
    file.write_bytes((masked / "checkpoints/step-0000003/ema-0.9.safetensors").read_bytes())
    loaded = starting_config(
        file, None, ["maskdit-finetune"], ["training.steps=1", "training.batch_size=8"]
    )
    events = list(finetune(masked.parent / "pixels", tmp_path / "a", file, None, loaded))
    assert "holds the weights 0.9 alone" in notes(events)
    tune(masked, tmp_path / "b", "training.batch_size=8", ema="0.9")
    before = weights(masked, 3, "ema-0.9")
    for name in ("weights", "ema-0.99"):
        after = weights(tmp_path / "b", 1, name)
        assert all((after[k] - before[k]).abs().max() < 1e-6 for k in after)


def begun(folder: Path, cache: Path, *changes: tuple[str, str]) -> Path:
    """A run of LMD, as an earlier version whose preset said something else would have left it."""
    run(cache, folder, load_config(["lmd"], [*TINY, "training.steps=2"]))
    config = folder / "config.toml"
    text = config.read_text("utf-8")
    for now, then in changes:
        assert now in text
        text = text.replace(now, then)
    config.write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        ('posterior = "mode"                            # preset lmd', "# none then"),
        (
            "clip_norm = 10.0                              # preset lmd",
            "clip_norm = 5.0  # preset lmd",
        ),
        ("eps = 1e-08                                   # default", "eps = 1e-06  # preset lmd"),
        (
            "from_zero = true                              # preset lmd",
            "from_zero = false  # default",
        ),
    ],
    ids=["a key that was not there", "another value", "no longer set", "set since"],
)
def test_a_run_goes_on_under_the_presets_that_it_began_with(
    change: tuple[str, str], pixels: Path, tmp_path: Path
) -> None:
    folder = begun(tmp_path / "run", pixels, change)
    before = read_of(folder)
    longer = {"training.steps": 3, "training.schedule_steps": 3}
    loaded = load_config(["lmd"], [*TINY, *(f"{key}={value}" for key, value in longer.items())])
    said = notes(run(pixels, folder, loaded))
    assert "was begun with another version, whose settings it keeps" in said
    assert read_of(folder) == before | longer
    # The record still says so when the run is resumed once more.
    more = ["training.steps=4", "training.schedule_steps=3"]
    loaded = load_config(["lmd"], [*TINY, *more])
    assert "settings it keeps" in notes(run(pixels, folder, loaded))


def read_of(folder: Path) -> dict[str, object]:
    return flat(read_config(folder / "config.toml").model_dump(mode="json"))


@pytest.mark.parametrize(
    ("presets", "keys"),
    [
        (["lmd", "lmd-uniform"], []),
        (["lmd"], ["training.clip_norm=3", "optimizer.eps=1e-5"]),
        (["lmd", "OWN"], []),
    ],
    ids=["another preset", "--set", "a preset of one's own"],
)
def test_what_the_user_changes_is_refused(
    presets: list[str], keys: list[str], pixels: Path, tmp_path: Path
) -> None:
    folder = begun(tmp_path / "run", pixels)
    own = tmp_path / "own.toml"
    own.write_text("[data]\nheld_out = 1\n", "utf-8")
    words = [str(own) if name == "OWN" else name for name in presets]
    loaded = load_config(
        words,
        [*(k for k in TINY if "OWN" not in presets or "held" not in k), "training.steps=3", *keys],
    )
    with pytest.raises(MdtError, match="holds a run with another configuration"):
        run(pixels, folder, loaded)

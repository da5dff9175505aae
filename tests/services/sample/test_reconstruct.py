"""Strips of restored images: what is hidden, what is shown, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.weights import read_tensors
from mdt_cli.cli.app import run as mdt
from mdt_cli.config.load import Loaded, load_config
from mdt_cli.core.batch import Answer
from mdt_cli.core.codecs.pixels import PixelCodec
from mdt_cli.core.masking.tokens import RandomTokens, TokenSubset
from mdt_cli.core.objectives.losses import denormalised_patches, normalised_patches
from mdt_cli.core.objectives.reconstruction import hidden_places, restored
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.latents import LatentUnits
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import Note, PreviewSaved, SamplesDone, Validated
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.model import load_trained
from mdt_cli.services.sample.reconstruct import ReconstructRequest, reconstruct
from mdt_cli.services.strips import hide, make_strips, strip_gap, strip_size
from mdt_cli.services.train.split import stratified_rows
from tests.autoencoders import save_autoencoder
from tests.services.sampled import contents, manifest, pixels
from tests.services.tiny_weights import write_weights
from tests.services.training_kit import make_cache, make_images, run
from tests.services.training_kit import mdt as process

LMD = (
    "model.hidden_size=16",
    "model.depth=2",
    "model.num_heads=2",
    "model.patch_size=4",
    "model.narrow_decoder={depth=1, hidden_size=16, num_heads=2}",
    "training.batch_size=8",
    "optimizer.lr=3e-3",
    "lr_schedule.warmup=0",
    "ema.decays=[0.5]",
    "log.every=1",
    "validation.every=0",
    "preview.every=0",
    "data.held_out=2",
)


def lmd(steps: int, *assignments: str) -> Loaded:
    return load_config(["lmd"], [*LMD, f"training.steps={steps}", *assignments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Images, their cache, and a run of LMD on it."""
    folder = tmp_path_factory.mktemp("reconstruct")
    images = make_images(folder / "images", per_class=3)
    cache = make_cache(folder / "cache", images)
    run(cache, folder / "run", lmd(4))
    return images, cache, folder / "run"


@pytest.fixture
def request_(made: tuple[Path, Path, Path], tmp_path: Path) -> ReconstructRequest:
    images, _, run_ = made
    return ReconstructRequest(run_, tmp_path / "out", images, batch_size=4, device="cpu")


def done_of(request: ReconstructRequest) -> SamplesDone:
    last = list(reconstruct(request))[-1]
    assert isinstance(last, SamplesDone)
    return last


def parts(path: Path, side: int = 16) -> list[np.ndarray]:
    """Original, masked and restored picture of a strip."""
    strip = pixels(path)
    assert strip.shape[1::-1] == strip_size(side)
    step = side + strip_gap(side)
    return [strip[:, k * step : k * step + side] for k in range(3)]


def test_denormalised_is_the_inverse_of_normalised() -> None:
    clean = torch.randn(3, 4, 6, 6, generator=stream("clean")) * 3 + 1
    there = normalised_patches(clean, 2)
    torch.testing.assert_close(denormalised_patches(there, clean, 2), clean, atol=1e-5, rtol=0)
    # A patch of mean 0 and variance 1 takes the mean and spread of the one it stands for.
    guess = normalised_patches(torch.randn(3, 4, 6, 6, generator=stream("guess")), 2)
    back = denormalised_patches(guess, clean, 2)
    ours, theirs = back[0, :, 2:4, 4:6], clean[0, :, 2:4, 4:6]
    torch.testing.assert_close(ours.mean(), theirs.mean(), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.std(), theirs.std(), atol=1e-4, rtol=0)


def test_restored_keeps_what_was_seen() -> None:
    clean, output = torch.randn(2, 1, 3, 4, 6, generator=stream("pair")).unbind(0)
    subset = TokenSubset(torch.tensor([[0, 5]]), 6)
    result = restored(output, clean, subset, 2, normalised=False)
    # 2 x 3 patches of 2 x 2: the first and the last are seen.
    seen = torch.zeros(4, 6, dtype=torch.bool)
    seen[:2, :2] = seen[2:, 4:] = True
    assert torch.equal(result, torch.where(seen, clean, output))
    assert torch.equal(hidden_places(subset, (2, 3), 4, 6)[0, 0], ~seen)
    # The same patches in an image of four times the side.
    assert torch.equal(
        hidden_places(subset, (2, 3), 16, 24)[0, 0],
        ~seen.repeat_interleave(4, 0).repeat_interleave(4, 1),
    )


def test_a_perfect_answer_restores_the_original() -> None:
    clean = torch.rand(2, 3, 16, 16, generator=stream("clean")) * 2 - 1
    subset = hide(RandomTokens(), (4, 4), 0.75, [3, 4])

    class Oracle(torch.nn.Module):
        grid, patch_size = (4, 4), 4

        def forward(self, x, t_B, y_B, subset):
            return Answer(normalised_patches(x, 4))

    for strip in make_strips(Oracle(), PixelCodec(), clean, None, subset, True, 0, LatentUnits()):
        before, after = strip[:, :16].astype(int), strip[:, -16:].astype(int)
        assert abs(before - after).max() <= 1


def test_strips_show_what_the_network_saw(request_: ReconstructRequest) -> None:
    done = done_of(request_)
    assert (done.count, done.drawn) == (6, 6)
    facts = manifest(request_.out)
    assert facts["reconstruct"]["hidden"] == 12
    assert facts["reconstruct"]["patches"] == 16
    assert "those of the original" in facts["reconstruct"]["hidden_patches"]
    assert facts["images"] == [f"class{c}/{k:03d}.png" for c in (0, 1) for k in range(3)]
    for seed, name in enumerate(facts["images"]):
        original, masked, after = parts(request_.out / f"{seed:06d}.png")
        assert np.array_equal(original, pixels(request_.images / name))
        subset = hide(RandomTokens(), (4, 4), 0.75, [seed])
        hidden = hidden_places(subset, (4, 4), 16, 16)[0, 0].numpy()
        assert (masked[hidden] == 128).all()
        assert np.array_equal(masked[~hidden], original[~hidden])
        assert np.array_equal(after[~hidden], original[~hidden])
        assert not np.array_equal(after[hidden], original[hidden])
    assert len(set(contents(request_.out).values())) == 8
    with Image.open(request_.out / "grid.png") as grid:
        assert grid.width > 3 * 48


def test_the_network_answers_with_its_mask_token(request_: ReconstructRequest) -> None:
    """The restored patches are those of the trained network, masked parts included."""
    done_of(replace(request_, seeds="2"))
    trained = load_trained(request_.weights, None, torch.device("cpu"), masked=True)
    assert trained.network.fill is not None
    image = torch.from_numpy(pixels(request_.images / "class0/002.png").copy())
    clean = image.permute(2, 0, 1)[None] / 127.5 - 1
    subset = hide(RandomTokens(), (4, 4), 0.75, [2])
    with torch.no_grad():
        answer = trained.network(clean, torch.zeros(1), None, subset).final
    wanted = restored(answer, clean, subset, 4, normalised=True)[0].permute(1, 2, 0)
    after = parts(request_.out / "000002.png")[2]
    assert (torch.from_numpy(after.copy()) / 127.5 - 1 - wanted.clamp(-1, 1)).abs().max() < 0.01


def test_a_seed_hides_the_same_patches_in_any_batch(
    request_: ReconstructRequest, tmp_path: Path
) -> None:
    done_of(request_)
    done_of(replace(request_, out=tmp_path / "one", seeds="4", batch_size=1))
    masked = [parts(folder / "000004.png")[1] for folder in (request_.out, tmp_path / "one")]
    assert np.array_equal(*masked)
    # Seed 10 is image 4 of 6 again, with other patches hidden.
    done_of(replace(request_, out=tmp_path / "ten", seeds="10"))
    original, other, _ = parts(tmp_path / "ten" / "000010.png")
    assert np.array_equal(original, parts(request_.out / "000004.png")[0])
    assert not np.array_equal(other, masked[0])


def test_goes_on_and_keeps_what_is_there(request_: ReconstructRequest) -> None:
    done_of(request_)
    before = contents(request_.out)
    (request_.out / "000001.png").unlink()
    (request_.out / "000005.png").write_bytes(before["000005.png"][:40])
    done = done_of(request_)
    assert done.drawn == 2
    assert contents(request_.out) == before
    with pytest.raises(MdtError, match=r"mask_ratio: 0.75 there, 0.5 now"):
        done_of(replace(request_, mask_ratio=0.5))


def test_a_cache_and_a_single_picture_are_images_too(
    request_: ReconstructRequest, made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    done_of(request_)
    done_of(replace(request_, images=made[1], out=tmp_path / "rows"))
    for seed in range(6):
        names = [folder / f"{seed:06d}.png" for folder in (request_.out, tmp_path / "rows")]
        assert np.array_equal(*map(pixels, names))
    assert manifest(tmp_path / "rows")["images"][3] == "row 3"
    one = replace(request_, images=request_.images / "class1/002.png", out=tmp_path / "one")
    done_of(one)
    assert sorted(contents(one.out)) == ["000000.png", "grid.png", "samples.json"]
    assert np.array_equal(parts(one.out / "000000.png")[0], pixels(one.images))


def test_through_an_autoencoder(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    images, codec = made[0], save_autoencoder(tmp_path / "vae")
    list(encode_latents(EncodeRequest(images, tmp_path / "cache", codec=codec, size=16, workers=0)))
    run(tmp_path / "cache", tmp_path / "run", lmd(2, "model.patch_size=2"))
    request = ReconstructRequest(tmp_path / "run", tmp_path / "out", images, 0.5, device="cpu")
    done_of(request)
    original, masked, _ = parts(tmp_path / "out" / "000003.png")
    assert np.array_equal(original, pixels(images / "class1/000.png"))
    # 8 x 8 latents in patches of 2: a hidden patch is 4 x 4 pixels.
    grey = (masked == 128).all(2).reshape(4, 4, 4, 4)
    assert grey.all((1, 3)).sum() == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_ratio": 1.0}, "--mask-ratio 1 is not a share"),
        ({"mask_ratio": -0.1}, "--mask-ratio -0.1 is not a share"),
        ({"mask_ratio": 0.99}, "keeps none of 16 patches"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"seeds": "4-2"}, "runs backwards"),
        ({"images": Path("no-such-folder")}, "no such folder or file"),
    ],
)
def test_what_cannot_be_done(
    request_: ReconstructRequest, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(MdtError, match=words):
        list(reconstruct(replace(request_, **changes)))
    assert not request_.out.exists()


def test_nothing_hidden_is_allowed(request_: ReconstructRequest) -> None:
    done_of(replace(request_, mask_ratio=0.0, seeds="0"))
    original, masked, after = parts(request_.out / "000000.png")
    assert np.array_equal(original, masked)
    assert np.array_equal(original, after)


def test_a_broken_picture_is_named(request_: ReconstructRequest, tmp_path: Path) -> None:
    images = shutil.copytree(request_.images, tmp_path / "images")
    (images / "class0/001.png").write_bytes(b"no picture")
    with pytest.raises(MdtError, match=r"class0/001.png cannot be used: not an image"):
        done_of(replace(request_, images=images))


def test_runs_that_cannot_restore(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.safetensors")
    with pytest.raises(MdtError, match="it was trained with objective flow"):
        list(reconstruct(ReconstructRequest(weights, tmp_path / "out", made[0], device="cpu")))
    run(made[1], tmp_path / "run", lmd(1, 'masking.views=[{tokens="all"}]'))
    with pytest.raises(MdtError, match="it was trained without masking"):
        list(
            reconstruct(ReconstructRequest(tmp_path / "run", tmp_path / "o", made[0], device="cpu"))
        )


def test_another_cache_is_refused(request_: ReconstructRequest, tmp_path: Path) -> None:
    other = make_cache(tmp_path / "cache", request_.images, size=8)
    with pytest.raises(MdtError, match="another latent shape"):
        done_of(replace(request_, images=other))


def test_previews_are_strips_of_held_out_images(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    cache = make_cache(tmp_path / "cache", make_images(folder, per_class=20))
    looks = ("preview.every=2", "preview.per_class=1", "validation.every=2")
    events = run(cache, tmp_path / "watched", lmd(4, *looks))
    paths = [event.path for event in events if isinstance(event, PreviewSaved)]
    assert [path.name for path in paths] == ["step-0000002.png", "step-0000004.png"]
    assert paths[0].read_bytes() != paths[1].read_bytes()
    losses = [event.losses for event in events if isinstance(event, Validated)]
    assert set(losses[0]) == {"masked/online", "masked/0.5"}
    # The sheet begins with the first held-out row as it is: 3-fold, behind a margin of 6.
    data = open_cache(cache)
    row = stratified_rows(data.labels, 2, 0).held_out[0]
    first = data.read(row.view(1)).mean[0].permute(1, 2, 0)
    wanted = ((first + 1) * 127.5).round().to(torch.uint8).numpy()
    assert np.array_equal(pixels(paths[0])[6 : 6 + 48 : 3, 6 : 6 + 48 : 3], wanted)
    # Looking changes nothing of what is trained.
    run(cache, tmp_path / "plain", lmd(4))
    plain, watched = (
        read_tensors(tmp_path / name / "checkpoints/step-0000004/weights.safetensors")
        for name in ("plain", "watched")
    )
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_the_command(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", str(made[2]), str(tmp_path / "out")]
    assert mdt(words) == 1
    assert "restores masked images and cannot generate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    restore = [*words, "--reconstruct", str(made[0])]
    assert mdt([*restore, "--steps", "3", "--format", "npz"]) == 1
    assert "--steps, --format cannot be combined with --reconstruct" in capsys.readouterr().err
    assert mdt([*words, "--mask-ratio", "0.5"]) == 1
    assert "--mask-ratio needs --reconstruct IMAGES" in capsys.readouterr().err
    assert mdt([*restore, "--mask-ratio", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["count"] == 6
    assert told["reconstruct"]["hidden"] == 8
    assert mdt([*restore, "--mask-ratio", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "6 images, none generated, 6 existed" in text
    assert "8 of 16 patches hidden and restored" in text


def test_some_images_of_many(tmp_path: Path, made: tuple[Path, Path, Path]) -> None:
    images = make_images(tmp_path / "images", per_class=33)
    request = ReconstructRequest(made[2], tmp_path / "out", images, device="cpu")
    events = list(reconstruct(request))
    assert any(isinstance(e, Note) and "64 of 66 images, evenly" in e.text for e in events)
    assert events[-1].count == 64
    assert manifest(request.out)["seeds"] == "0-31,33-64"


def test_exported_weights_restore_as_well(request_: ReconstructRequest, tmp_path: Path) -> None:
    file = tmp_path / "lmd.safetensors"
    list(export(ExportRequest(request_.weights, file, format="safetensors")))
    done_of(request_)
    done_of(replace(request_, weights=file, out=tmp_path / "exported"))
    for seed in range(6):
        names = [folder / f"{seed:06d}.png" for folder in (request_.out, tmp_path / "exported")]
        assert np.array_equal(*map(pixels, names))
    with pytest.raises(MdtError, match="cannot generate images"):
        list(export(ExportRequest(request_.weights, tmp_path / "model", format="diffusers")))
    assert not (tmp_path / "model").exists()


def test_two_processes_write_what_one_does(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        words = ["sample", str(made[2]), str(tmp_path / name), "--reconstruct", str(made[0])]
        done = process(*words, "--batch-size", "2", "--device", "cpu", processes=processes)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "two")

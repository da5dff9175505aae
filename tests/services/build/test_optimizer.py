"""What decays, how averages start, and the first learning rate, from a configuration to a step."""

from pathlib import Path

import pytest
import torch

from mdt_cli.config.load import load_config
from mdt_cli.config.training import AdamWConfig, AdanConfig, EmaConfig
from mdt_cli.errors import MdtError
from mdt_cli.services.build.optimizer import build_optimizer
from tests.services.training_kit import digests, log_of, make_cache, make_images, run, small


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimizer")
    return make_cache(folder / "cache", make_images(folder / "images"))


@pytest.mark.parametrize("table", [AdamWConfig, AdanConfig])
@pytest.mark.parametrize("decay_1d", [True, False])
def test_vectors_decay_or_not(table: type[AdamWConfig] | type[AdanConfig], decay_1d: bool) -> None:
    network = torch.nn.Linear(2, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    optimizer = build_optimizer(table(lr=0.1, weight_decay=0.5, decay_1d=decay_1d), network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # AdamW multiplies by 1 - lr decay, Adan divides by 1 + lr decay.
    decayed = 0.95 if table is AdamWConfig else 1 / 1.05
    torch.testing.assert_close(network.weight, torch.full((3, 2), decayed))
    torch.testing.assert_close(network.bias, torch.full((3,), decayed if decay_1d else 1.0))


@pytest.mark.parametrize("kind", ["adamw", "adan"])
def test_two_groups_resume_to_the_bit(cache: Path, tmp_path: Path, kind: str) -> None:
    # A list of Adan's three betas would not fit the other: both start from their defaults.
    words = (f"optimizer.kind={kind}", "optimizer.weight_decay=0.05", "optimizer.decay_1d=false")
    run(cache, tmp_path / "whole", small(6, *words))
    run(cache, tmp_path / "cut", small(3, *words))
    run(cache, tmp_path / "cut", small(6, *words))
    assert digests(tmp_path / "cut", 6) == digests(tmp_path / "whole", 6)


def test_words_for_the_warmup_of_averages() -> None:
    for given, kept in {True: "ramp", False: "none", "power": "power"}.items():
        assert EmaConfig.model_validate({"warmup": given}).warmup == kept
    assert load_config(["mdtv2", "digits"], []).config.ema.warmup == "ramp"
    with pytest.raises(MdtError, match=r'ema\.warmup: must be "none", "ramp" or "power"'):
        load_config(["mdtv2"], ["ema.warmup=slow"])


def test_an_average_of_a_run_copies_at_first(cache: Path, tmp_path: Path) -> None:
    from mdt_cli.artifacts.weights import read_tensors

    run(cache, tmp_path / "run", small(4, "ema.warmup=power", "ema.decays=[0.9]"))
    folder = tmp_path / "run" / "checkpoints" / "step-0000004"
    online, average = (read_tensors(folder / f"{n}.safetensors") for n in ("weights", "ema-0.9"))
    assert all(torch.equal(online[name], average[name]) for name in online)


def test_the_first_step_may_have_no_learning_rate(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(4, "lr_schedule.warmup=2", "lr_schedule.from_zero=true"))
    assert [entry["lr"] for entry in log_of(tmp_path / "run")] == [0, 5e-4, 1e-3, 1e-3]


def test_presets_whose_first_step_is_published_without_a_learning_rate() -> None:
    lost = {
        name
        for name in ("dit", "mdt", "mdtv2", "maskdit", "maskdm", "uvit", "tread")
        if load_config([name], []).config.lr_schedule.starts_at_zero
    }
    assert lost == {"maskdit", "uvit"}
    # MaskDM's and U-ViT's code ramps where there is a warm-up alone, MaskDiT's in any case.
    for name, warmup, starts_at_zero in (
        ("maskdm", 5_000, True),
        ("maskdm", 0, False),
        ("uvit", 0, False),
        ("maskdit", 0, True),
    ):
        schedule = load_config([name], [f"lr_schedule.warmup={warmup}"]).config.lr_schedule
        assert schedule.starts_at_zero == starts_at_zero, name
    assert load_config(["maskdm", "maskdm-finetune"], []).config.lr_schedule.starts_at_zero
    assert not load_config(["maskdit", "maskdit-finetune"], []).config.lr_schedule.from_zero

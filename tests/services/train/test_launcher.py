"""No variable of a launcher changes training behind the configuration."""

from pathlib import Path

import pytest

from mdt_cli.config.training import TrainingConfig
from mdt_cli.errors import MdtError
from mdt_cli.services.train.launcher import check_launcher
from tests.services.training_kit import make_cache, make_images, run, small

ASKED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("4", "training.micro_batch_size"),
    "ACCELERATE_GRADIENT_CLIPPING": ("1.0", "training.clip_norm=1.0"),
    "ACCELERATE_MIXED_PRECISION": ("bf16", "training.precision=bf16"),
    "ACCELERATE_DYNAMO_BACKEND": ("INDUCTOR", "training.compile=true"),
    "ACCELERATE_USE_CPU": ("True", "--device cpu"),
    "ACCELERATE_TORCH_DEVICE": ("mps", "--device mps"),
    "ACCELERATE_USE_FSDP": ("true", "one whole copy"),
    "ACCELERATE_USE_DEEPSPEED": ("true", "one whole copy"),
    "ACCELERATE_USE_MEGATRON_LM": ("true", "one whole copy"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("true", "one whole copy"),
    "NVIDIA_TF32_OVERRIDE": ("1", "training.precision=tf32"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("1", "training.precision=tf32"),
}
# What `accelerate launch` sets where nothing was asked for.
PLAIN = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_CPU_AFFINITY": "1",
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_launcher_asks_for_is_refused_with_the_key(name: str) -> None:
    value, instead = ASKED[name]
    with pytest.raises(MdtError, match=f"{name}={value}") as caught:
        check_launcher(TrainingConfig(), "cuda", {**PLAIN, name: value})
    assert instead in caught.value.message
    assert f"unset {name}" in str(caught.value.hint)


def test_what_changes_nothing_passes() -> None:
    check_launcher(TrainingConfig(), "cuda", PLAIN)
    check_launcher(TrainingConfig(), "cpu", {**PLAIN, "ACCELERATE_USE_CPU": "True"})
    check_launcher(TrainingConfig(precision="bf16"), "cuda", {"ACCELERATE_MIXED_PRECISION": "bf16"})
    check_launcher(TrainingConfig(precision="tf32"), "cuda", {"NVIDIA_TF32_OVERRIDE": "1"})


def test_all_are_named_at_once() -> None:
    found = {name: value for name, (value, _) in ASKED.items()}
    with pytest.raises(MdtError) as caught:
        check_launcher(TrainingConfig(), "cuda", found)
    assert all(name in caught.value.message for name in ASKED)


def test_a_run_stops_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path / "cache", make_images(tmp_path / "images", per_class=2))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(MdtError, match="GRADIENT_ACCUMULATION_STEPS=4"):
        run(cache, tmp_path / "run", small(2))
    assert not (tmp_path / "run").exists()

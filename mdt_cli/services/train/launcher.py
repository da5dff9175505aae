"""Variables by which a launcher or a shell would change training behind the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

from mdt_cli.config.training import TrainingConfig
from mdt_cli.errors import MdtError

OFF = ("", "0", "no", "none", "false", "off")
ONE_COPY = "mdt trains with one whole copy of the network in each process: launch without it"


@dataclass(frozen=True)
class _Variable:
    """What changes nothing, and what to write instead; `{value}` is what was found."""

    neutral: tuple[str, ...]
    instead: str


# As Accelerate (utils/launch.py, state.py, accelerator.py) and cuBLAS read them.
VARIABLES: Mapping[str, _Variable] = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": _Variable(
        ("1",), "to compute a batch in parts, use --set training.micro_batch_size=..."
    ),
    "ACCELERATE_GRADIENT_CLIPPING": _Variable(OFF, "use --set training.clip_norm={value}"),
    "ACCELERATE_DYNAMO_BACKEND": _Variable(OFF, "use --set training.compile=true"),
    "ACCELERATE_USE_CPU": _Variable(OFF, "use --device cpu"),
    "ACCELERATE_TORCH_DEVICE": _Variable(("",), "use --device {value}"),
    "ACCELERATE_DOWNCAST_BF16": _Variable(OFF, "use --set training.precision=bf16"),
    "ACCELERATE_USE_FSDP": _Variable(OFF, ONE_COPY),
    "ACCELERATE_USE_DEEPSPEED": _Variable(OFF, ONE_COPY),
    "ACCELERATE_USE_MEGATRON_LM": _Variable(OFF, ONE_COPY),
    "ACCELERATE_USE_PARALLELISM_CONFIG": _Variable(OFF, ONE_COPY),
    "ACCELERATE_USE_SAGEMAKER": _Variable(OFF, ONE_COPY),
}
PRECISION = "ACCELERATE_MIXED_PRECISION"
# "1" of either computes float32 products in TF32, "0" forbids it.
TF32 = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


def check_launcher(training: TrainingConfig, device: str, found: Mapping[str, str]) -> None:
    """MdtError that names every variable in `found` which asks for other training than `training`.

    `device`: the type of the device that was chosen.
    """
    faults = [
        (name, variable.instead)
        for name, variable in VARIABLES.items()
        if name in found and found[name].strip().lower() not in variable.neutral
    ]
    if device == "cpu":
        faults = [
            (name, instead)
            for name, instead in faults
            if name != "ACCELERATE_USE_CPU" and found[name].strip().lower() != "cpu"
        ]
    asked = found.get(PRECISION, "").strip().lower()
    if asked not in OFF and asked != training.precision:
        known = asked in ("fp16", "bf16")
        faults.append(
            (PRECISION, f"use --set training.precision={asked}" if known else "it is fp16 or bf16")
        )
    faults += [(name, _tf32(found[name])) for name in TF32 if _contradicts(name, found, training)]
    if not faults:
        return
    lines = [
        f"  {name}={found[name]}: {instead.format(value=found[name])}" for name, instead in faults
    ]
    names = " ".join(name for name, _ in faults)
    raise MdtError(
        "the environment asks for other training than the configuration:\n" + "\n".join(lines),
        f"unset {names}, or change the launcher that sets it",
    )


def _contradicts(name: str, found: Mapping[str, str], training: TrainingConfig) -> bool:
    value = found.get(name, "").strip()
    if not value:
        return False
    on, wanted = value != "0", training.precision == "tf32"
    # torch reads its own variable as "on" alone: 0 leaves the choice to the program.
    return on != wanted and (on or name == TF32[0])


def _tf32(value: str) -> str:
    precision = "no" if value.strip() == "0" else "tf32"
    return f"use --set training.precision={precision}"

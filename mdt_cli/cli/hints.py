"""Options of other tools that users type out of habit, and what to write instead."""

from collections.abc import Mapping, Sequence

_CACHE = "the images are the first argument: mdt encode-latents IMAGES CACHE"
_RUN = "the run folder is the second argument: mdt {command} CACHE RUN"
_RESUME = "rerun the same command: it resumes from the newest checkpoint"
_TRAINING = {
    "--learning-rate": "--set optimizer.lr={value}",
    "--lr": "--set optimizer.lr={value}",
    "--weight-decay": "--set optimizer.weight_decay={value}",
    "--lr-warmup-steps": "--set lr_schedule.warmup={value}",
    "--batch-size": "--set training.batch_size={value}",
    "--global-batch-size": "--set training.batch_size={value}",
    "--train-batch-size": "--set training.batch_size={value}",
    "--microbatch": "--set training.micro_batch_size={value}",
    "--batch-gpu": "--set training.micro_batch_size={value}",
    "--steps": "--set training.steps={value}",
    "--max-train-steps": "--set training.steps={value}",
    "--mixed-precision": "--set training.precision={value}",
    "--max-grad-norm": "--set training.clip_norm={value}",
    "--seed": "--set training.seed={value}",
    "--global-seed": "--set training.seed={value}",
    "--ema-rate": "--set ema.decays=[{value}]",
    "--log-every": "--set log.every={value}",
    "--ckpt-every": "--set checkpoint.every={value}",
    "--checkpointing-steps": "--set checkpoint.every={value}",
    "--save-every-n-steps": "--set checkpoint.every={value}",
    "--checkpoints-total-limit": "--set checkpoint.keep_last={value}",
    "--flip-aug": "--set data.flip=true",
    "--model": "choose a recipe and a size with -p, such as -p dit -p size/xl",
    "--data-path": "the latent cache is the first argument: mdt {command} CACHE RUN",
    "--results-dir": _RUN,
    "--output-dir": _RUN,
    "--outdir": _RUN,
    "--resume": _RESUME,
    "--resume-checkpoint": _RESUME,
    "--resume-from-checkpoint": _RESUME,
    "--image-size": "the size is chosen when encoding: mdt encode-latents --size {value}",
    "--num-classes": "the number of classes is read from the latent cache",
}
_OUT = "the output folder is the second argument: mdt sample RUN OUT"
# What to write instead; a hint that begins with a dash is text to type.
HINTS: Mapping[str, Mapping[str, str]] = {
    "encode-latents": {
        "--data-path": _CACHE,
        "--image-size": "--size {value}",
        "--num-workers": "--workers {value}",
        "--vae-batch-size": "--batch-size {value}",
        "--flip-aug": "--flip",
        "--vae": "--codec stabilityai/sd-vae-ft-{value}",
    },
    "pretrain": _TRAINING,
    "finetune": {**_TRAINING, "--ckpt": "--from {value}"},
    "sample": {
        "--out": _OUT,
        "--outdir": _OUT,
        "--output-dir": _OUT,
        "--sample-dir": _OUT,
        "--ckpt": "the weights are the first argument: mdt sample RUN OUT",
        "--model-path": "the weights are the first argument: mdt sample RUN OUT",
        "--cfg-scale": "--guidance {value}",
        "--num-sampling-steps": "--steps {value}",
        "--num-steps": "--steps {value}",
        "--class": "--classes {value}",
        "--batch": "--batch-size {value}",
        "--per-proc-batch-size": "--batch-size {value}",
        "--seed": "--seeds {value}",
        "--num-samples": "one image per seed: --seeds 0-63 generates 64",
        "--num-fid-samples": "one image per seed: --seeds 0-49999 generates 50,000",
        "--use-ddim": "--solver ddim",
        "--heun": "--solver heun",
        "--tf32": "--precision tf32",
        "--mode": "--solver heun, euler or dpm++ (ode), or ddpm (sde)",
    },
}


def with_dashes(arguments: Sequence[str]) -> list[str]:
    """The arguments with `-` for `_` in the names of options, as both are in use elsewhere."""
    return [_with_dashes(argument) for argument in arguments]


def _with_dashes(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def advice(arguments: Sequence[str]) -> tuple[str, str] | None:
    """(what is wrong, what to write instead) for the first option of another tool."""
    command = arguments[0] if arguments else ""
    hints = HINTS.get(command, {})
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in hints:
            continue
        after = arguments[position + 1 : position + 2]
        if not equals:
            value = after[0] if after and not after[0].startswith("-") else "..."
        hint = hints[name].format(value=value, command=command)
        return f"mdt {command} has no option {name}", (f"use {hint}" if hint[0] == "-" else hint)
    return None

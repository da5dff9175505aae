"""The discriminative finetune: what it learns, keeps, refuses, and what it tells at the end."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.training_log import accuracy, learning
from mdt_cli.artifacts.weights import read_tensors
from mdt_cli.cli.app import run as mdt
from mdt_cli.config.load import Loaded, load_config
from mdt_cli.core.batch import Answer, Batch, Condition
from mdt_cli.core.objectives.classification import Classification, hits
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.optimizer import build_optimizer
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import Classified, Note, TrainingDone
from mdt_cli.services.inspection.inspect import inspect
from mdt_cli.services.runtime import Stop
from mdt_cli.services.train.batches import Split
from mdt_cli.services.train.look import Look
from mdt_cli.services.train.start import finetune, starting_config
from mdt_cli.services.train.validation import held_out_accuracy
from tests.services.sample.test_reconstruct import LMD
from tests.services.training_kit import digests, log_of, make_cache, make_images, run
from tests.services.training_kit import mdt as process

TUNE = (
    "training.batch_size=8",
    "training.micro_batch_size=4",
    "optimizer.lr=3e-3",
    "lr_schedule.warmup=0",
    "lr_schedule.from_zero=false",
    "validation.every=4",
    "data.held_out=4",
)
CONSTANT = "lr_schedule.kind=constant"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache of two classes that colour alone tells apart, and a run of LMD on it."""
    folder = tmp_path_factory.mktemp("classify")
    cache = make_cache(folder / "cache", make_images(folder / "images", per_class=40))
    run(cache, folder / "lmd", load_config(["lmd"], [*LMD, "training.steps=4"]))
    return cache, folder / "lmd"


def config_of(source: Path, steps: int, *assignments: str) -> Loaded:
    words = [*TUNE, f"training.steps={steps}", *assignments]
    return starting_config(source, None, ["lmd-classify"], words)


def tune(made: tuple[Path, Path], target: Path, steps: int, *assignments: str) -> list[object]:
    cache, source = made
    return list(finetune(cache, target, source, None, config_of(source, steps, *assignments)))


def weights(run_: Path, step: int, name: str = "weights") -> dict[str, torch.Tensor]:
    return read_tensors(run_ / f"checkpoints/step-{step:07d}/{name}.safetensors")


def test_cross_entropy_and_its_smoothing() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
    y, none = torch.tensor([0, 2]), torch.zeros(2)
    batch = Batch(none, none, none, Condition(y))
    plain = Classification().error(logits, batch, none)
    normaliser = math.log(math.exp(2) + 1 + math.exp(-1))
    torch.testing.assert_close(plain, torch.tensor([[normaliser - 2], [math.log(3)]]))
    # A share of 0.3 is spread over all three classes, the right one included.
    smooth = Classification(0.3).error(logits, batch, none)
    assert smooth[0, 0].item() == pytest.approx(normaliser - 0.7 * 2 - 0.1 * (2 + 0 - 1), rel=1e-6)
    with pytest.raises(ValueError, match="learns from labels"):
        Classification().error(logits, Batch(none, none, none), none)


def test_hits_among_the_best() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [9.0, 0.0, 1.0, 2.0]])
    y = torch.tensor([0, 1, 1])
    assert hits(logits, y, 1).tolist() == [True, False, False]
    assert hits(logits, y, 3).tolist() == [True, True, False]
    assert hits(logits, y, 5).tolist() == [True, True, True]


def test_the_answer_is_that_of_a_plain_restatement(made: tuple[Path, Path]) -> None:
    """Blocks on all tokens, the mean of the patches alone, a norm, a Linear."""
    config = config_of(made[1], 1).config
    network = build_network(config, (3, 16, 16), 5)
    generator = stream("classifier")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    w = dict(network.named_parameters())
    tokens = F.unfold(x, 4, stride=4).transpose(1, 2) @ w["patches.conv.weight"].flatten(1).T
    tokens = tokens + w["patches.conv.bias"] + w["positions_ND"]
    token = w["extras.class_token"] + w["extras.positions_ED"]
    tokens = torch.cat([token.expand(2, 1, -1), tokens], 1)
    for k in range(2):
        name = f"blocks.{k}."

        def norm(h: torch.Tensor, which: str, name: str = name) -> torch.Tensor:
            return F.layer_norm(
                h, (16,), w[name + which + ".weight"], w[name + which + ".bias"], 1e-6
            )

        def linear(h: torch.Tensor, which: str, name: str = name) -> torch.Tensor:
            return h @ w[name + which + ".weight"].T + w[name + which + ".bias"]

        q, key, v = linear(norm(tokens, "norm1"), "attn.qkv").unflatten(2, (3, 2, 8)).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, key) / 8**0.5
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)
        tokens = tokens + linear(mixed, "attn.proj")
        inner = F.gelu(linear(norm(tokens, "norm2"), "mlp.fc1"))
        tokens = tokens + linear(inner, "mlp.fc2")
    pooled = F.layer_norm(
        tokens[:, 1:].mean(1), (16,), w["classifier.norm.weight"], w["classifier.norm.bias"], 1e-6
    )
    wanted = pooled @ w["classifier.linear.weight"].T + w["classifier.linear.bias"]
    logits = network(x, torch.zeros(2), None).final
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)


def test_layers_learn_at_falling_rates(made: tuple[Path, Path]) -> None:
    table = config_of(made[1], 1, "optimizer.layer_decay=0.5").config
    network = build_network(table, (3, 16, 16), 5)
    names = {id(p): name for name, p in network.named_parameters()}
    optimizer = build_optimizer(table.optimizer, network)
    scale = {names[id(p)]: g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    assert scale.keys() == set(names.values())
    # Two blocks: embedding 0, blocks 1 and 2, head 3.
    assert scale["classifier.linear.weight"] == scale["classifier.norm.bias"] == 1.0
    assert scale["blocks.1.mlp.fc1.weight"] == 0.5
    assert scale["blocks.0.attn.qkv.bias"] == 0.25
    front = ("patches.conv.weight", "positions_ND", "extras.class_token", "extras.positions_ED")
    assert [scale[name] for name in front] == [0.125] * 4


def test_vectors_positions_and_the_class_token_do_not_decay(made: tuple[Path, Path]) -> None:
    """The groups of the official code: param_groups_lrd with timm's no_weight_decay."""
    table = config_of(made[1], 1).config
    network = build_network(table, (3, 16, 16), 5)
    names = {id(p): name for name, p in network.named_parameters()}
    groups = build_optimizer(table.optimizer, network).param_groups
    decays = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    spared = {name for name, decay in decays.items() if decay == 0}
    tokens = {"positions_ND", "extras.class_token", "extras.positions_ED"}
    assert spared == tokens | {name for name, p in network.named_parameters() if p.ndim == 1}
    assert set(decays.values()) == {0.0, 0.05}


def test_starts_from_the_online_weights_and_the_class_token_where_it_was(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    tune(made, tmp_path / "run", 1, CONSTANT, "lr_schedule.from_zero=true")
    online, after = weights(made[1], 4), weights(tmp_path / "run", 1)
    assert any(not torch.equal(online[k], v) for k, v in weights(made[1], 4, "ema-0.5").items())
    # The first step has a learning rate of 0.
    shared = after.keys() & online.keys()
    assert not [name for name in shared if not torch.equal(after[name], online[name])]
    assert not after["extras.positions_ED"].any()


def test_the_rate_of_a_step_follows_the_layer(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Adan's first step moves a weight with a large gradient by its rate times a constant."""
    moved = {}
    for decay in ("1.0", "0.25"):
        tune(
            made,
            tmp_path / decay,
            1,
            f"optimizer.layer_decay={decay}",
            "optimizer.weight_decay=0",
            CONSTANT,
        )
        before = weights(made[1], 4)
        after = weights(tmp_path / decay, 1)
        name = "blocks.0.mlp.fc1.weight"
        moved[decay] = (after[name] - before[name]).abs().max().item()
        assert log_of(tmp_path / decay)[-1]["lr"] == pytest.approx(3e-3, rel=1e-12)
    assert moved["0.25"] == pytest.approx(moved["1.0"] / 16, rel=1e-3)


def test_learns_drops_the_decoder_and_tells(made: tuple[Path, Path], tmp_path: Path) -> None:
    events = tune(made, tmp_path / "run", 40, "optimizer.layer_decay=1.0")
    notes = [event.text for event in events if isinstance(event, Note)]
    dropped = next(text for text in notes if text.startswith("dropped"))
    assert all(part in dropped for part in ("adapter.", "narrow.", "head.", "fill.mask_token"))
    assert " blocks" not in dropped
    added = next(text for text in notes if text.startswith("added"))
    assert added.endswith("positions_ND, extras.positions_ED, classifier.norm, classifier.linear")
    looks = [event for event in events if isinstance(event, Classified)]
    assert [look.step for look in looks] == [*range(0, 41, 4)]
    assert set(looks[0].percent) == {"top1/online", "top5/online", "top1/0.5", "top5/0.5"}
    # Both classes are among the five best of two; colour tells them apart.
    assert all(look.percent["top5/0.5"] == 100 for look in looks)
    assert looks[-1].percent["top1/online"] == 100
    losses = [entry["loss"] for entry in log_of(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    done = events[-1]
    assert isinstance(done, TrainingDone)
    assert done.accuracy == accuracy(tmp_path / "run")
    gained = looks[-1].percent["top1/0.5"] - looks[0].percent["top1/0.5"]
    assert gained > 0
    speed = learning(tmp_path / "run")
    assert speed is not None
    hours = speed["MIT"] * 40 / 3600
    assert done.accuracy["MAT@1"] == pytest.approx(hours / gained, rel=1e-9)
    assert done.accuracy["MAT@5"] is None
    facts = inspect(tmp_path / "run").facts
    assert facts["held-out accuracy"] == done.accuracy
    assert facts["learning speed"] == speed
    json.dumps(facts, allow_nan=False)


def test_accuracy_is_counted_on_held_out_images(made: tuple[Path, Path]) -> None:
    """A network that always says class 0, of which one image in four is, and its opposite."""

    class Always0(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor([1.0, 0.0, -1.0, -2.0, -3.0, -4.0]))

        def forward(self, x: torch.Tensor, t_B: torch.Tensor, y_B: None) -> Answer:
            return Answer(self.logits.expand(len(x), -1))

    network = Always0()
    always5 = {"logits": network.logits.detach().flip(0)}
    data = SimpleNamespace(
        cache=open_cache(made[0]),
        clean_latents=lambda rows, generator: rows.mean,
        config=config_of(made[1], 1, "validation.batch_size=3").config,
        # Rows from 40 on are of class 1.
        split=Split(torch.arange(80), torch.tensor([7, 41, 42, 43])),
    )
    look = Look(network, {"0.5": always5}, data, 0, made[0])
    wanted = {"top1/online": 25.0, "top5/online": 100.0, "top1/0.5": 0.0, "top5/0.5": 75.0}
    assert held_out_accuracy(look, Stop()) == wanted
    assert network.logits[0] == 1
    assert network.training


def test_resumed_is_bit_identical(made: tuple[Path, Path], tmp_path: Path) -> None:
    # A cosine would not be the same for 3 steps and for 10.
    tune(made, tmp_path / "whole", 10, CONSTANT)
    tune(made, tmp_path / "parts", 3, CONSTANT)
    tune(made, tmp_path / "parts", 10, CONSTANT)
    assert digests(tmp_path / "parts", 10) == digests(tmp_path / "whole", 10)
    losses = [[r["loss"] for r in log_of(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    # The first look is not taken again, and counts.
    looks = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in looks] == [0, 3, 4, 8, 10]


def test_a_frozen_encoder_stays(made: tuple[Path, Path], tmp_path: Path) -> None:
    frozen = ("objective.encoder=frozen", "optimizer.weight_decay=0.5", CONSTANT)
    tune(made, tmp_path / "run", 6, *frozen)
    before, after = weights(made[1], 4), weights(tmp_path / "run", 6)
    encoder = [
        name
        for name in after
        if not name.startswith(("classifier.", "positions_ND", "extras.positions_ED"))
    ]
    assert encoder
    assert all(torch.equal(after[name], before[name]) for name in encoder)
    assert after["classifier.linear.weight"].abs().max() > 1e-3
    held = weights(tmp_path / "run", 6, "optimizer")
    assert {name.partition("/")[0] for name in held} == {"0", "1", "2", "3"}
    tune(made, tmp_path / "parts", 2, *frozen)
    tune(made, tmp_path / "parts", 6, *frozen)
    assert digests(tmp_path / "parts", 6) == digests(tmp_path / "run", 6)


def test_two_processes_see_the_same_numbers_as_one(made: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["--from", str(made[1]), "-p", "lmd-classify"]
    for text in (*TUNE, "training.steps=6"):
        words += ["--set", text]
    for name, processes in (("one", 1), ("two", 2)):
        done = process("finetune", str(made[0]), str(tmp_path / name), *words, processes=processes)
        assert done.returncode == 0, done.stderr
    for one, two in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert accuracy(tmp_path / "two").keys() == accuracy(tmp_path / "one").keys()


def test_classes_may_be_unknown_to_the_first_stage(tmp_path: Path) -> None:
    """Pretrained on images without labels, finetuned on the same images with them."""
    images = make_images(tmp_path / "images", per_class=20)
    list(
        encode_latents(
            EncodeRequest(images, tmp_path / "plain", size=16, workers=0, unconditional=True)
        )
    )
    cache = make_cache(tmp_path / "cache", images)
    run(tmp_path / "plain", tmp_path / "lmd", load_config(["lmd"], [*LMD, "training.steps=2"]))
    events = tune((cache, tmp_path / "lmd"), tmp_path / "run", 2)
    assert isinstance(events[-1], TrainingDone)
    with pytest.raises(MdtError, match="a classifier needs a cache with classes"):
        tune((tmp_path / "plain", tmp_path / "lmd"), tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()


def test_a_classifier_goes_on_from_a_classifier(made: tuple[Path, Path], tmp_path: Path) -> None:
    tune(made, tmp_path / "first", 4)
    source = tmp_path / "first"
    loaded = starting_config(source, None, [], ["training.steps=1", "optimizer.lr=1e-9"])
    list(finetune(made[0], tmp_path / "second", source, None, loaded))
    before, after = weights(source, 4, "ema-0.5"), weights(tmp_path / "second", 1)
    assert before.keys() == after.keys()
    name = "classifier.linear.weight"
    torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


def test_what_a_classifier_cannot_be(made: tuple[Path, Path]) -> None:
    with pytest.raises(MdtError) as error:
        starting_config(made[1], None, [], ["objective.kind=classification"])
    text = str(error.value)
    for words in ("narrow_decoder.depth must be 0", "masking.views", "conditional must be true"):
        assert words in text
    with pytest.raises(MdtError, match=r"model\.condition must be \"none\""):
        load_config(["dit"], ["objective.kind=classification", "data.class_dropout=0"])


def test_it_makes_no_images(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(made, tmp_path / "run", 2)
    capsys.readouterr()
    assert mdt(["sample", str(tmp_path / "run"), str(tmp_path / "out")]) == 1
    assert "this model is a classifier and cannot generate images" in capsys.readouterr().err
    words = ["sample", str(tmp_path / "run"), str(tmp_path / "out"), "--reconstruct", str(made[0])]
    assert mdt(words) == 1
    assert "it was trained with objective classification" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_tells_what_it_gained(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(made[0]), str(tmp_path / "run"), "--from", str(made[1])]
    words += ["-p", "lmd-classify"]
    for text in (*TUNE, "training.steps=40", "optimizer.layer_decay=1.0"):
        words += ["--set", text]
    assert mdt(words) == 0
    told = capsys.readouterr().err
    assert "held-out accuracy top1/online" in told
    assert "hours per point" in told
    assert mdt([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["top1"] == 100
    assert mdt(["inspect", str(tmp_path / "run")]) == 0
    assert "MAT@1" in capsys.readouterr().out

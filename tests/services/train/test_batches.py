"""Drawing for a GPU: ahead, in threads, the same bits; and a step that never asks the host."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.config.load import load_config
from mdt_cli.core.masking.ratio import UniformRatio
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.objectives.training_step import ViewDraw, ViewSource, sum_terms, term_losses
from mdt_cli.core.optim.ema import AveragedModule
from mdt_cli.core.rng import stream
from mdt_cli.services.build.latents import latent_units
from mdt_cli.services.build.masking import build_selector, build_views
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.objective import build_loss
from mdt_cli.services.build.ratio import build_mask_ratio
from mdt_cli.services.train.batches import MicroBatch, TrainData, split_rows
from tests.services.training_kit import make_cache, make_images

SIZES = ("model.hidden_size=16", "model.depth=4", "model.num_heads=2", "model.patch_size=4")
BATCHES = ("training.batch_size=8", "training.micro_batch_size=4", "training.steps=9")
RECIPES = {
    # Learned variance and two views; EDM and a teacher; a straight path; no noise; labels.
    "mdtv2": ("model.decoder_depth=2", "masking.restore_at=-2"),
    "mcdit": ("model.narrow_decoder={depth=2, hidden_size=16, num_heads=2}",),
    "unmasked": ("objective={kind='flow'}", "sampling.solver='heun'"),
    "lmd": (),
    "lmd lmd-classify": (),
}
META, CPU = torch.device("meta"), torch.device("cpu")


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return make_cache(folder / "cache", make_images(folder / "images"))


def made(folder: Path, recipe: str) -> tuple[TrainData, Transformer]:
    config = load_config(recipe.split(), [*SIZES, *BATCHES, *RECIPES[recipe]]).config
    cache = open_cache(folder)
    network = build_network(config, cache.facts.latent_shape, cache.facts.num_classes)
    data = TrainData(
        config,
        cache,
        split_rows(cache.facts.count, 0, 0),
        build_loss(config.objective),
        tuple(build_views(config)),
        build_mask_ratio(config.masking),
        ViewSource(
            build_selector(config.masking, network.grid),
            network.grid,
            cache.facts.num_classes,
            config.data.class_dropout,
        ),
        latent_units(config.data, cache.facts.codec),
    )
    return data, network


def tensors_of(batch: MicroBatch) -> list[Tensor]:
    draws = [(d.noise, d.condition.y_B, d.subset and d.subset.kept_BK) for d in batch.draws]
    return [x for x in tree_leaves((batch.clean, batch.t_B, draws)) if x is not None]


def uploaded(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """All views on the device at once."""
    views = [batch.of_view(number).to(device) for number in range(len(batch.draws))]
    draws = tuple(ViewDraw(view.noise, view.condition, view.subset) for view in views)
    return replace(batch.to(device), draws=draws)


class OnTheHost(TorchDispatchMode):
    """Which operations read or write a tensor that lies on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.append(str(func))
        return out


def train(data: TrainData, network: Transformer, batch: MicroBatch, device: torch.device) -> None:
    """Every view forwards and backwards, as an optimizer step does it."""
    teacher = None
    if data.config.masking.has_teacher:
        teacher = AveragedModule(network.patch_decoder(), 0.999).module.to(device)

    def teach(x: Tensor, c_BD: Tensor | None) -> Tensor:
        assert teacher is not None
        answer: Tensor = teacher(x, c_BD)
        return answer

    patch_size = network.patch_size
    for number, view in enumerate(data.views):
        losses = term_losses(network, data.loss, view, batch.of_view(number), patch_size, teach)
        sum_terms(view, losses).mean().backward()


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_view_touches_the_host_between_its_upload_and_its_gradient(
    cache_folder: Path, recipe: str
) -> None:
    """A meta tensor has no numbers: whatever would wait for a device to tell them fails."""
    data, network = made(cache_folder, recipe)
    network.to(META)
    for step, (batch,) in enumerate(data.stream_of(0, 2, range(1), META)):
        there = uploaded(batch, META)
        with OnTheHost() as host:
            train(data, network, there, META)
        if step:
            # The first step has copied the tables of the objective.
            assert host.found == []


def test_what_threads_draw_ahead_are_the_same_bits_in_the_same_order(cache_folder: Path) -> None:
    data, _ = made(cache_folder, "mdtv2")
    steps, own = range(2, 7), range(1, 2)
    drawn = list(data.drawn_ahead(steps, own, 3, META))
    plain = [data.micro_batch(step, index) for step in steps for index in own]
    assert len(drawn) == len(plain) == 5
    for ours, theirs in zip(drawn, plain, strict=True):
        assert ours.ratio == theirs.ratio
        assert len(tensors_of(ours)) == 7
        for one, other in zip(tensors_of(ours), tensors_of(theirs), strict=True):
            assert torch.equal(one, other)


class Meeting(Flow):
    """Times that come when two threads ask for theirs, and a count of who asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self._lock, self.two = 0, Lock(), Barrier(2, timeout=60)

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        with self._lock:
            self.asked += 1
        self.two.wait()
        return super().sample_time(count, generator)


def test_micro_batches_are_drawn_at_once_and_only_a_few_ahead(cache_folder: Path) -> None:
    data, _ = made(cache_folder, "unmasked")
    met = Meeting()
    with closing(replace(data, loss=met).drawn_ahead(range(100), range(1), 2, CPU)) as drawn:
        for _ in range(4):
            next(drawn)
        # Time enough to draw all hundred, were there no bound.
        time.sleep(0.5)
        assert met.asked == 4 + 2
        met.two.abort()


def test_a_step_for_the_cpu_is_drawn_when_it_is_asked_for(cache_folder: Path) -> None:
    data, _ = made(cache_folder, "mdtv2")
    for step, batches in enumerate(data.stream_of(0, 2, range(2), CPU)):
        for index, batch in enumerate(batches):
            plain = data.micro_batch(step, index)
            for one, other in zip(tensors_of(batch), tensors_of(plain), strict=True):
                assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gpu_is_never_waited_for(cache_folder: Path, recipe: str) -> None:
    device = torch.device("cuda")
    data, network = made(cache_folder, recipe)
    network.to(device)
    for step, (batch,) in enumerate(data.stream_of(0, 3, range(1), device)):
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            there = uploaded(batch, device)
            train(data, network, there, device)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for here, plain in zip(
            tensors_of(there), tensors_of(data.micro_batch(step, 0)), strict=True
        ):
            assert torch.equal(here.cpu(), plain)


def test_each_forward_pass_of_mdt_v2_has_a_ratio_of_its_own(cache_folder: Path) -> None:
    """Its code draws in the forward pass: a micro-batch here, whichever process computes it."""
    data, _ = made(cache_folder, "mdtv2")
    ratios = [[data.micro_batch(step, index).ratio for index in (0, 1)] for step in range(6)]
    assert len({ratio for pair in ratios for ratio in pair}) == 12
    assert all(0.3 <= ratio < 0.5 for pair in ratios for ratio in pair)
    lengths = {data.micro_batch(0, index).draws[1].subset.kept_BK.shape[1] for index in (0, 1)}
    assert lengths == {int(16 * (1 - ratio)) for ratio in ratios[0]}
    again, _ = made(cache_folder, "mdtv2")
    assert again.micro_batch(3, 1).ratio == ratios[3][1]


def test_a_ratio_of_the_step_is_that_of_version_0_1(cache_folder: Path) -> None:
    data, _ = made(cache_folder, "mdtv2")
    per_step = replace(data, mask_ratio=UniformRatio(0.3, 0.5))
    for step in range(4):
        expected = 0.3 + 0.2 * float(torch.rand((), generator=stream(0, step, "mask ratio")))
        assert {per_step.micro_batch(step, index).ratio for index in (0, 1)} == {expected}

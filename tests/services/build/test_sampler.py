import pytest
import torch
from torch import nn

from mdt_cli.config.sampling import (
    ConstantGuidanceConfig,
    IntervalGuidanceConfig,
    PowerCosineGuidanceConfig,
    SamplingConfig,
)
from mdt_cli.core.batch import Answer, Condition
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.sampling.seeds import SeededNoise, drawn_labels
from mdt_cli.errors import MdtError
from mdt_cli.services.build.sampler import generate, guidance_of, sampler_of
from mdt_cli.services.model import load_trained
from tests.core.sampling.closed_form import MEAN, STD
from tests.reference.samplers import ddim_with_clipping, dpm_solver_pp_2m
from tests.services.tiny_weights import write_weights

CPU = torch.device("cpu")
SHAPE = (4, 3, 3)
# Of which U-ViT's and MaskDM's chains.
SCALED = Epsilon(learned_variance=False, betas="scaled_linear", first_time=1)
COSINE = Epsilon(learned_variance=False, betas="cosine")
OBJECTIVES = {
    "epsilon": Epsilon(),
    "scaled_linear": SCALED,
    "cosine": COSINE,
    "edm": Edm(),
    "flow": Flow(),
}
FITTING = [
    (kind, solver)
    for kind in OBJECTIVES
    for solver in ("ddpm", "ddim", "euler", "heun", "dpm++")
    if kind not in ("edm", "flow") or solver not in ("ddpm", "ddim")
]


class Ideal(nn.Module):
    """The network that answers perfectly for data of class k ~ N(MEAN + k, STD^2).

    It inverts `Diffusion.denoised`, which is affine in the output. The null class stands far off.
    """

    def __init__(self, objective, far=-2.0, null=3):
        super().__init__()
        self.objective, self.far, self.null, self.batches = objective, far, null, []

    def forward(self, x, t_embed, y, subset=None):
        self.batches.append(None if y is None else y.tolist())
        t, noisy, alpha, sigma = self._process(x.double(), t_embed)
        mean = torch.full((len(x), 1, 1, 1), MEAN, dtype=torch.float64)
        if y is not None:
            shift = torch.where(y == self.null, torch.tensor(self.far), y.float())
            mean = mean + shift.double().view(-1, 1, 1, 1)
        variance = alpha**2 * STD**2 + sigma**2
        clean = mean + alpha * STD**2 / variance * (noisy - alpha * mean)
        zero = torch.zeros_like(noisy)
        pad = [zero] * (self.objective.out_multiplier - 1)
        at_0 = self.objective.denoised(torch.cat([zero, *pad], 1), noisy, t)
        at_1 = self.objective.denoised(torch.cat([zero + 1, *pad], 1), noisy, t)
        return Answer(torch.cat([(clean - at_0) / (at_1 - at_0), *pad], 1).float())

    def _process(self, x, t_embed):
        view = (-1, 1, 1, 1)
        match self.objective:
            case Epsilon():
                t = t_embed - self.objective.chain.first_time
                abar = self.objective.chain.alphas_cumprod[t].view(view)
                return t, x, abar.sqrt(), (1 - abar).sqrt()
            case Edm():
                t = (4 * t_embed.double()).exp()
                sigma = t.view(view)
                return t, x * (sigma**2 + 0.5**2).sqrt(), torch.ones_like(sigma), sigma
            case _:
                t = t_embed.double() / 1000
                return t, x, 1 - t.view(view), t.view(view)


def sampling(solver, steps=60, **rest):
    return SamplingConfig(solver=solver, steps=steps, **rest)


@pytest.mark.parametrize(("kind", "solver"), FITTING)
def test_every_solver_samples_the_class_asked_for(kind, solver):
    objective = OBJECTIVES[kind]
    labels = [0, 2] * 200
    network = Ideal(objective)
    # The cosine chain's first step is long: Heun wants the others shorter.
    chosen = sampling(solver, 150 if kind == "cosine" else 60)
    latents = generate(network, objective, chosen, SHAPE, 3, list(range(400)), labels, CPU)
    assert latents.dtype == torch.float32
    for label in (0, 2):
        values = latents[label // 2 :: 2]
        # 7,200 values each: four standard errors are 0.033; DDPM in 60 steps is a little narrow.
        wanted = MEAN + label
        if kind == "scaled_linear" and solver != "ddpm":
            # This chain keeps 7% of the image to its end, but starts from noise without an image.
            kept = float(objective.chain.alphas_cumprod[-1]) ** 0.5
            wanted -= STD * kept * wanted / (kept**2 * STD**2 + 1 - kept**2) ** 0.5
        assert float(values.mean()) == pytest.approx(wanted, abs=0.045)
        assert float(values.std()) == pytest.approx(STD, abs=0.06)


@pytest.mark.parametrize(("kind", "solver"), FITTING)
def test_an_image_is_the_same_in_any_batch(kind, solver):
    objective = OBJECTIVES[kind]
    network = Ideal(objective)
    together = generate(network, objective, sampling(solver, 5), SHAPE, 3, [4, 8, 15], None, CPU)
    for row, seed in enumerate([4, 8, 15]):
        alone = generate(network, objective, sampling(solver, 5), SHAPE, 3, [seed], None, CPU)
        assert float((alone[0] - together[row]).abs().max()) < 1e-5


def test_dpm_solver_with_guidance_on_all_channels_equals_the_restated_one():
    """U-ViT's sampler: 50 steps, noise + 0.4 (noise - noise without class), every channel."""
    chosen = sampling("dpm++", 50, guidance=ConstantGuidanceConfig(scale=1.4, channels="all"))
    ours = generate(Ideal(SCALED), SCALED, chosen, SHAPE, 3, [7], [2], CPU).double().numpy()
    network, chain = Ideal(SCALED), SCALED.chain.alphas_cumprod
    indices = [round(k * 999 / 49) for k in range(50)][::-1]
    alphas = [float(chain[index]) ** 0.5 for index in indices] + [1.0]
    sigmas = [(1 - alpha**2) ** 0.5 for alpha in alphas]

    def clean_at(x, step):
        x_B = torch.from_numpy(x).float()
        # The network reads 1 to 1000.
        t_B = torch.tensor([indices[step] + 1])
        with_class, without = (network(x_B, t_B, torch.tensor([y])).final.double() for y in (2, 3))
        noise = (with_class + 0.4 * (with_class - without)).numpy()
        return (x - sigmas[step] * noise) / alphas[step]

    start = SeededNoise([7], SHAPE, 3).start().double().numpy()
    expected = dpm_solver_pp_2m(clean_at, start, alphas, sigmas)
    # Our state is float32 and starts from noise of the chain's own variance.
    assert abs(ours - expected).max() < 1e-4


def test_clipping_holds_for_every_solver():
    for kind, solver in FITTING:
        objective = OBJECTIVES[kind]
        chosen = sampling(solver, 5, clip=True, spacing="trailing")
        end = generate(Ideal(objective), objective, chosen, SHAPE, 3, [1, 2], [2, 2], CPU)
        free = generate(
            Ideal(objective), objective, sampling(solver, 5), SHAPE, 3, [1, 2], [2, 2], CPU
        )
        # Class 2 lies at 2.3.
        assert float(end.abs().max()) <= 1 + 1e-5
        assert float(free.max()) > 1.5


def test_maskdm_asks_for_the_trailing_times_and_puts_the_networks_noise_back():
    class Watched(Ideal):
        def forward(self, x, t_embed, y, subset=None):
            seen.append(int(t_embed[0]))
            return super().forward(x, t_embed, y, subset)

    seen = []
    chosen = sampling("ddim", 250, eta=1.0, clip=True, spacing="trailing")
    ours = generate(Watched(COSINE), COSINE, chosen, SHAPE, 3, [5], [1], CPU)
    assert seen == list(range(999, 0, -4))
    noise = SeededNoise([5], SHAPE, 3)
    start = noise.start().double().numpy()
    draws = [noise.step().double().numpy() for _ in range(249)]
    network, y_B = Ideal(COSINE), torch.tensor([1])

    def noise_at(x, time):
        answer = network(torch.from_numpy(x).float(), torch.tensor([time]), y_B)
        return answer.final.double().numpy()

    expected = ddim_with_clipping(noise_at, start, COSINE.chain.beta_T.numpy(), 250, draws)
    assert abs(ours.double().numpy() - expected).max() < 1e-4


def test_without_labels_each_seed_draws_its_own():
    network, seeds = Ideal(Flow()), [3, 4, 5, 6]
    drawn = generate(network, Flow(), sampling("euler", 3), SHAPE, 3, seeds, None, CPU)
    asked = drawn_labels(seeds, 3)
    assert network.batches == [asked] * 3
    same = generate(network, Flow(), sampling("euler", 3), SHAPE, 3, seeds, asked, CPU)
    assert torch.equal(drawn, same)


def test_guidance_moves_away_from_the_null_class_in_one_batch():
    network = Ideal(Flow())
    guided = sampling("euler", 4, guidance=ConstantGuidanceConfig(scale=2.0))
    generate(network, Flow(), guided, SHAPE, 3, [1, 2], [0, 1], CPU)
    assert network.batches == [[0, 1, 3, 3]] * 4
    network = Ideal(Flow())
    plain = generate(network, Flow(), sampling("euler", 4), SHAPE, 3, [1, 2], [0, 1], CPU)
    assert network.batches == [[0, 1]] * 4
    pushed = generate(Ideal(Flow()), Flow(), guided, SHAPE, 3, [1, 2], [0, 1], CPU)
    # The null class lies at -2: with scale 2 the mean moves as far again, up.
    assert float((pushed - plain)[0].mean()) > 1.0


def test_first3_guidance_leaves_the_fourth_channel():
    def one(channels):
        guidance = ConstantGuidanceConfig(scale=3.0, channels=channels)
        chosen = sampling("euler", 4, guidance=guidance)
        return generate(Ideal(Flow()), Flow(), chosen, SHAPE, 3, [1], [1], CPU)

    plain = generate(Ideal(Flow()), Flow(), sampling("euler", 4), SHAPE, 3, [1], [1], CPU)
    first3, every = one("first3"), one("all")
    assert torch.allclose(first3[:, 3], plain[:, 3], atol=1e-6)
    assert torch.allclose(first3[:, :3], every[:, :3], atol=1e-6)
    assert float((every[:, 3] - plain[:, 3]).abs().min()) > 0.1


@pytest.mark.parametrize(
    ("objective", "low", "high", "inside"),
    [
        # Flow times 1, .75, .5, .25 are ratios inf, 3, 1, 1/3.
        (Flow(), 0.8, 3.0, [False, True, True, False]),
        # EDM: sigma itself, 80, 9.7, 0.5, 0.002.
        (Edm(), 0.4, 20.0, [False, True, True, False]),
        # Epsilon: indices 999, 666, 333, 0 have sigma/alpha of 157, 9.3, 1.4, 0.01.
        (Epsilon(), 1.0, 10.0, [False, True, True, False]),
        # Without an upper limit pure noise, whose ratio is infinite, is inside.
        (Flow(), 0.8, IntervalGuidanceConfig().high, [True, True, True, False]),
        (Flow(), 0.8, float("inf"), [True, True, True, False]),
    ],
)
def test_the_interval_is_on_the_noise_to_signal_ratio(objective, low, high, inside):
    network = Ideal(objective)
    guidance = IntervalGuidanceConfig(scale=2.0, low=low, high=high)
    chosen = sampling("euler", 4, guidance=guidance)
    generate(network, objective, chosen, SHAPE, 3, [1], [1], CPU)
    assert [len(labels) == 2 for labels in network.batches] == inside


@pytest.mark.parametrize(
    ("objective", "time"),
    # All half way from image to noise: index 500 of 1000, t 1/2, sigma 1 (as much as signal).
    [(Epsilon(), 500), (Flow(), 0.5), (Edm(), 1.0)],
)
def test_power_cosine_counts_time_from_noise_to_image(objective, time):
    chosen = sampling("heun", guidance=PowerCosineGuidanceConfig(scale=3.8, power=4.0))
    scale, channels = guidance_of(chosen, objective)
    assert scale(time) == pytest.approx(1.0269, abs=5e-5)
    assert channels == "first3"


def test_a_network_without_classes_is_sampled_without_guidance():
    network = Ideal(Flow())
    chosen = sampling("euler", 3, guidance=ConstantGuidanceConfig(scale=2.0))
    latents = generate(network, Flow(), chosen, SHAPE, 0, [1, 2], None, CPU)
    assert network.batches == [None] * 3
    assert latents.shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("chosen", "objective", "message"),
    [
        (sampling("ddpm"), Flow(), '"ddpm" is for the epsilon objective, .*trained with flow'),
        (sampling("ddim"), Edm(), '"ddim" is for the epsilon objective, .*trained with edm'),
        (sampling("heun", 2000), Epsilon(), "2000 sampling steps are more than the 1000"),
        (sampling("ddim", eta=1.5), Epsilon(), "sampling.eta 1.5"),
        (sampling("heun", sigma_min=9.0, sigma_max=8.0), Edm(), "sigma_min 9 is not below"),
    ],
)
def test_what_cannot_work_is_told_before_the_first_step(chosen, objective, message):
    with pytest.raises(MdtError, match=message):
        sampler_of(Ideal(objective), objective, chosen, 3)


def test_generate_is_the_sampler_from_the_noise_of_the_seeds(tmp_path):
    path = write_weights(tmp_path / "w.safetensors", {"kind": "epsilon", "num_timesteps": 50})
    trained = load_trained(path, None, CPU)
    chosen, seeds = sampling("ddpm", 6), [2, 3]
    noise = SeededNoise(seeds, (3, 8, 8), 4)
    sampler = sampler_of(trained.network, trained.loss.diffusion, chosen, 4)
    ours = sampler(noise.start(), Condition(torch.tensor([1, 2])), noise.step)
    other = generate(
        trained.network, trained.loss.diffusion, chosen, (3, 8, 8), 4, seeds, [1, 2], CPU
    )
    assert torch.equal(ours, other)
    assert not ours.requires_grad


def test_the_variance_the_network_learned_is_used():
    class Wide(Ideal):
        def forward(self, x, t_embed, y, subset=None):
            answer = super().forward(x, t_embed, y, subset)
            answer.final[:, 4:] = self.v
            return answer

    ends = []
    for v in (-1.0, 1.0):
        network = Wide(Epsilon())
        network.v = v
        ends.append(generate(network, Epsilon(), sampling("ddpm", 5), SHAPE, 3, [1], [1], CPU))
    assert float((ends[0] - ends[1]).abs().max()) > 0.05

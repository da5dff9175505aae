"""DDPM: discrete times, noise prediction, learned variance (Ho 2020; Nichol & Dhariwal 2021)."""

import math

import torch
from torch import Tensor

from mdt_cli.core.batch import Batch
from mdt_cli.core.levels import LevelOptions, Levels, ddpm_levels, levels_between, log_at
from mdt_cli.core.objectives.base import Diffusion, DiscreteChain
from mdt_cli.core.objectives.betas import beta_table


class Epsilon(Diffusion):
    """Noise prediction over `num_timesteps` steps of `betas` (see betas.py); tables in float64.

    Times are indices from 0; the network reads index + `first_time`, as U-ViT counts from 1.

    error = w(t) (eps - eps_hat)^2 + vb, where vb (bits) trains the variance alone. w = 1, or
    min(SNR, gamma) / SNR (Hang et al. 2023, eq. 9 for noise prediction); vb stays unweighted.
    """

    kind = "epsilon"
    time_input = "first_time + the training index, 0 (image) to num_timesteps - 1 (noise)"
    level_options = ("spacing",)
    chain: DiscreteChain

    def __init__(
        self,
        num_timesteps: int = 1000,
        learned_variance: bool = True,
        min_snr_gamma: float | None = None,
        betas: str = "linear",
        first_time: int = 0,
    ) -> None:
        self.out_multiplier = 2 if learned_variance else 1
        beta_T = beta_table(betas, num_timesteps)
        alphas = 1 - beta_T
        cumprod = alphas.cumprod(0)
        self.chain = DiscreteChain(betas, beta_T, cumprod, first_time, learned_variance)
        before = torch.cat([cumprod.new_ones(1), cumprod[:-1]])
        rest = 1 - cumprod
        # x_t = signal x_0 + sigma eps, and x_0 = unscale x_t - ratio eps.
        self._signal = _Table(cumprod.sqrt())
        self._sigma = _Table(rest.sqrt())
        self._unscale = _Table(cumprod.rsqrt())
        self._ratio = _Table((1 / cumprod - 1).sqrt())
        self._log = _Table(cumprod.log())
        # Ho et al. 2020, eq. 7: mean and variance of q(x_{t-1} | x_t, x_0).
        self._clean_coef = _Table(beta_T * before.sqrt() / rest)
        self._noisy_coef = _Table((1 - before) * alphas.sqrt() / rest)
        variance = beta_T * (1 - before) / rest
        # Entry 0 is zero; its logarithm borrows entry 1, as everywhere since Ho et al.
        self._low = _Table(torch.cat([variance[1:2], variance[1:]]).log())
        self._high = _Table(beta_T.log())
        snr = cumprod / rest
        self._weight = _Table(
            torch.ones_like(snr) if min_snr_gamma is None else snr.clamp(max=min_snr_gamma) / snr
        )

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.chain.num_timesteps, (count,), generator=generator)

    def quantile_time(self, share_B: Tensor) -> Tensor:
        return (share_B * self.chain.num_timesteps).long().clamp(max=self.chain.num_timesteps - 1)

    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return self._signal.at(t_B, clean) * clean + self._sigma.at(t_B, clean) * noise

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t_B + self.chain.first_time

    def epsilon(self, output: Tensor) -> Tensor:
        """The predicted noise: the first half of the channels where the variance is learned."""
        return output.chunk(2, dim=1)[0] if self.chain.learned_variance else output

    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        if t_B.is_floating_point():
            # Between the times of the chain, where its logarithm is a straight line.
            log = log_at(self._log.on(noisy), t_B.to(noisy.dtype)).view(-1, 1, 1, 1)
            unscale, ratio = (-log / 2).exp(), torch.expm1(-log).sqrt()
        else:
            unscale, ratio = self._unscale.at(t_B, noisy), self._ratio.at(t_B, noisy)
        return unscale * noisy - ratio * self.epsilon(output)

    def error(self, output: Tensor, batch: Batch, noisy: Tensor) -> Tensor:
        output, clean, t_B = output.float(), batch.clean, batch.t_B
        mse = self._weight.at(t_B, clean) * (self.epsilon(output) - batch.noise).square()
        if not self.chain.learned_variance:
            return mse
        return mse + self.variational_bound(output, clean, noisy, t_B)

    def levels(self, options: LevelOptions) -> Levels:
        if options.between:
            return levels_between(self.chain.alphas_cumprod, options.steps)
        return ddpm_levels(self.chain.alphas_cumprod, options.steps, options.spacing)

    def noise_ratio(self, t: float) -> float:
        if t != int(t):
            log = log_at(self.chain.alphas_cumprod.log(), torch.tensor(t, dtype=torch.float64))
            return math.sqrt(math.expm1(-float(log)))
        kept = self.chain.alphas_cumprod[int(t)]
        return float(((1 - kept) / kept).sqrt())

    def noise_share(self, t: float) -> float:
        return t / self.chain.num_timesteps

    def variational_bound(
        self, output: Tensor, clean: Tensor, noisy: Tensor, t_B: Tensor
    ) -> Tensor:
        """Bits per value of L_vlb (Nichol & Dhariwal 2021, eq. 14); no gradient to the mean."""
        clean_coef = self._clean_coef.at(t_B, clean)
        noisy_coef = self._noisy_coef.at(t_B, clean)
        true_mean = clean_coef * clean + noisy_coef * noisy
        mean = clean_coef * self.denoised(output, noisy, t_B).detach() + noisy_coef * noisy
        low, high = self._low.at(t_B, clean), self._high.at(t_B, clean)
        fraction = self.chain.variance_fraction(output)
        assert fraction is not None
        log_variance = fraction * high + (1 - fraction) * low
        kl = 0.5 * (
            -1
            + log_variance
            - low
            + torch.exp(low - log_variance)
            + (true_mean - mean).square() * torch.exp(-log_variance)
        )
        nll = _discrete_nll(clean, mean, 0.5 * log_variance)
        return torch.where((t_B == 0).view(-1, 1, 1, 1), nll, kl) / math.log(2)


class _Table:
    """A number per time, in float64 on the CPU, with a copy wherever it was ever looked up."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def at(self, t_B: Tensor, like: Tensor) -> Tensor:
        """[B, 1, 1, 1] with the dtype of `like`, on the device that it and the times lie on."""
        return self.on(like)[t_B].view(-1, 1, 1, 1)

    def on(self, like: Tensor) -> Tensor:
        """All of the numbers, with the dtype and on the device of `like`."""
        key = like.device, like.dtype
        if key not in self._copies:
            self._copies[key] = self._values.to(*key)
        return self._copies[key]


def _discrete_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log of a Gaussian's mass in the bin of width 2/255 around x (Ho et al. 2020, eq. 13)."""
    centred, inverse = x - mean, torch.exp(-log_scale)
    above, below = (
        _normal_cdf(inverse * (centred + 1 / 255)),
        _normal_cdf(inverse * (centred - 1 / 255)),
    )
    inside = (above - below).clamp(min=1e-12)
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, inside))
    return -mass.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Page's tanh approximation (1977), which official diffusion code uses for this term."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

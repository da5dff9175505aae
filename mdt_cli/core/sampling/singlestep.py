"""DPM-Solver++ in single steps of order 3, the sampler that U-ViT is published with.

The state is float64, the network float32. Axes: B batch, C channels, H W latent size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from mdt_cli.core.levels import Denoise, Level, Levels, estimate_at, final

# (state y, stop) -> clean estimate.
Ask = Callable[[Tensor, Level], Tensor]


def singlestep_orders(calls: int) -> list[int]:
    """Orders of the steps that take `calls` network calls together (Lu et al. 2022a, sec. 3.4).

    As many of order 3 as leave one call or two, which are steps of order 1 or 2; where they leave
    none, the last three calls are a step of order 2 and one of order 1.
    """
    threes, rest = divmod(calls, 3)
    if rest:
        return [3] * threes + [rest]
    return [3] * (threes - 1) + [2, 1] if threes else []


def singlestep_steps(denoise: Denoise, noise_BCHW: Tensor, levels: Levels) -> Iterator[Tensor]:
    """DPM-Solver++(3S) on these stops (Lu et al. 2022b, data prediction); yields after each call.

    A step of order k spans k of the intervals between stops and asks the network at the first k of
    its stops, so there are as many calls as intervals. From pure noise (flow) and to tau 0 the
    log-SNR is infinite: these two steps are of order 1. Where the last stop has noise left, the end
    is the noisy state there.
    """
    process = Process(levels.straight)
    stops = levels.stops
    first = int(process.signal(stops[0]) == 0 and levels.steps > 1)
    last = int(stops[-1].tau == 0)
    orders = [1] * first + singlestep_orders(levels.steps - first - last) + [1] * last
    y, position = noise_BCHW.double() * levels.start, 0

    def ask(state: Tensor, stop: Level) -> Tensor:
        return estimate_at(denoise, state, stop)

    for order in orders:
        span = stops[position : position + order + 1]
        states = process.step(ask, y, span)
        for y in states:
            position += 1
            yield y * stops[-1].scale if position == levels.steps else y


@dataclass(frozen=True)
class Process:
    """y = alpha clean + sigma noise: alpha 1 - t, sigma t for flow; 1 and tau for DDPM and EDM."""

    straight: bool

    def signal(self, level: Level) -> float:
        """alpha at a stop."""
        return 1 - level.tau if self.straight else 1.0

    def log_snr(self, level: Level) -> float:
        """Half the logarithm of the ratio; infinite at both ends."""
        alpha = self.signal(level)
        if not alpha:
            return -math.inf
        return math.log(alpha / level.tau) if level.tau else math.inf

    def step(self, ask: Ask, y: Tensor, span: tuple[Level, ...]) -> Iterator[Tensor]:
        """The states at the stops of a step behind its first; those between are trials."""
        start, end = span[0], span[-1]
        h = self.log_snr(end) - self.log_snr(start)
        # Positions of the stops in between, as shares of the step in log-SNR.
        shares = [(self.log_snr(stop) - self.log_snr(start)) / h for stop in span[1:-1]]
        clean = ask(y, start)
        match shares:
            case []:
                yield self._moved(y, start, end, h, clean)
            case [r]:
                trial = self._moved(y, start, span[1], r * h, clean)
                yield trial
                change = (ask(trial, span[1]) - clean) / (2 * r)
                yield self._moved(y, start, end, h, clean + change)
            case [r1, r2]:
                trial = self._moved(y, start, span[1], r1 * h, clean)
                yield trial
                change = (ask(trial, span[1]) - clean) / r1
                trial = self._moved(y, start, span[2], r2 * h, clean)
                trial = trial + self.signal(span[2]) * r2 * _phi2(r2 * h) * change
                yield trial
                change = (ask(trial, span[2]) - clean) / r2
                end_y = self._moved(y, start, end, h, clean)
                yield end_y + self.signal(end) * _phi2(h) * change
            case _:
                raise ValueError(f"a step over {len(span) - 1} intervals")

    def _moved(self, y: Tensor, start: Level, end: Level, h: float, clean: Tensor) -> Tensor:
        """The exact flow over h for an estimate that does not change (first order)."""
        return end.tau / start.tau * y - self.signal(end) * math.expm1(-h) * clean


def _phi2(h: float) -> float:
    """1 - (1 - exp(-h)) / h: the weight of a linear change of the estimate over a step."""
    return 1 + math.expm1(-h) / h


dpm_solver_singlestep = final(singlestep_steps)

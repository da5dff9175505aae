import json
import zlib
from pathlib import Path

import pytest
import torch

from mdt_cli.core.levels import (
    ddpm_levels,
    edm_levels,
    flow_levels,
    flow_times,
    karras_sigmas,
    respaced_betas,
    respaced_indices,
)
from tests.core.sampling.closed_form import linear_alphas_cumprod
from tests.reference.samplers import karras

# Printed by the code of DiT and MaskDM for chains of 1,000 times: some
# lists, and the CRC-32 of "0,37,..." for every count from 2 to 1,000.
OFFICIAL = json.loads(
    (Path(__file__).parents[1] / "reference" / "official_spacing.json").read_text("utf-8")
)


def test_karras_sigmas_meet_the_published_anchors():
    sigmas = karras_sigmas(40)
    assert sigmas.dtype == torch.float64
    assert len(sigmas) == 41
    assert sigmas[:3].tolist() == pytest.approx([80.0, 69.45094604, 60.11739476], abs=1e-8)
    assert sigmas[-3:].tolist() == pytest.approx([0.00367659, 0.002, 0.0], abs=1e-8)


def test_karras_sigmas_equal_the_restated_formula():
    ours = karras_sigmas(13, 0.01, 50.0, 5.0).tolist()
    assert ours == pytest.approx(karras(13, 0.01, 50.0, 5.0), rel=1e-12)


def test_respacing_meets_the_published_anchors():
    indices = respaced_indices(1000, 250)
    assert indices[:3].tolist() == [0, 4, 8]
    assert indices[-2:].tolist() == [995, 999]
    betas = respaced_betas(linear_alphas_cumprod(), indices)
    assert float(betas[0]) == pytest.approx(1e-4, abs=1e-12)
    assert float(betas[1]) == pytest.approx(5.990656e-4, abs=1e-10)
    assert float(betas[249]) == pytest.approx(0.07751934, abs=1e-8)


def test_respaced_products_are_those_of_the_long_chain():
    table = linear_alphas_cumprod()
    indices = respaced_indices(1000, 37)
    assert torch.allclose(
        (1 - respaced_betas(table, indices)).cumprod(0), table[indices], rtol=1e-12
    )


def test_all_indices_are_the_chain_itself():
    for spacing in ("respaced", "linspace", "ends", "trailing"):
        assert respaced_indices(1000, 1000, spacing).tolist() == list(range(1000))


@pytest.mark.parametrize(("spacing", "code"), [("respaced", "dit"), ("linspace", "maskdm")])
def test_times_are_those_of_official_code_at_every_count(spacing, code):
    for steps, listed in OFFICIAL[code]["lists"].items():
        assert respaced_indices(1000, int(steps), spacing).tolist() == listed
    for steps, checksum in zip(range(2, 1001), OFFICIAL[code]["crc32"], strict=True):
        text = ",".join(map(str, respaced_indices(1000, steps, spacing).tolist()))
        assert zlib.crc32(text.encode()) == checksum, steps


@pytest.mark.parametrize(
    ("now", "before", "others"), [("respaced", "ends", 283), ("linspace", "trailing", 84)]
)
def test_times_of_version_0_1_are_kept_beside_them(now, before, others):
    differing = [
        steps
        for steps in range(2, 1001)
        if respaced_indices(1000, steps, now).tolist()
        != respaced_indices(1000, steps, before).tolist()
    ]
    assert len(differing) == others
    assert now == "linspace" or {27, 35} <= set(differing)


@pytest.mark.parametrize("spacing", ["respaced", "linspace", "ends", "trailing"])
@pytest.mark.parametrize("times", [2, 8, 50, 4000])
def test_times_rise_and_end_at_the_noisiest_whatever_the_chain(spacing, times):
    for steps in {1, 2, times // 3 or 1, times - 1, times}:
        indices = respaced_indices(times, steps, spacing).tolist()
        assert indices == sorted(set(indices))
        assert (len(indices), indices[-1], indices[0] >= 0) == (steps, times - 1, True)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="no such spacing: even"):
        respaced_indices(1000, 10, "even")


@pytest.mark.parametrize("steps", [1, 10, 50, 250, 500])
def test_trailing_times_are_those_of_maskdm_where_the_parts_are_even(steps):
    published = torch.linspace(-1, 999, steps + 1).int()[1:]
    assert respaced_indices(1000, steps, "trailing").tolist() == published.tolist()


def test_trailing_times_in_uneven_parts():
    # The ends of thirds and sevenths, whatever floating point makes of them.
    assert respaced_indices(1000, 3, "trailing").tolist() == [332, 665, 999]
    assert respaced_indices(7, 3, "trailing").tolist() == [1, 3, 6]


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_that_do_not_fit_are_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} steps do not fit 1000"):
        respaced_indices(1000, steps)


def test_one_step_starts_from_pure_noise():
    assert respaced_indices(1000, 1).tolist() == [999]
    assert karras_sigmas(1).tolist() == [80.0, 0.0]


def test_flow_times_run_evenly_from_noise_to_image():
    assert flow_times(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_every_path_ends_without_noise():
    for levels in (edm_levels(5), flow_levels(5), ddpm_levels(linear_alphas_cumprod(), 5)):
        assert levels.steps == 5
        taus = [stop.tau for stop in levels.stops]
        assert taus == sorted(taus, reverse=True)
        assert taus[-1] == 0


def test_ddpm_levels_hold_scale_and_noise_of_the_chain():
    levels = ddpm_levels(linear_alphas_cumprod(), 250)
    first = levels.stops[0]
    assert first.t == 999
    assert first.scale**2 == pytest.approx(4.03583e-5, rel=1e-5)
    # Signal and noise power of the variance-preserving state add to 1.
    for stop in levels.stops:
        assert stop.scale**2 * (1 + stop.tau**2) == pytest.approx(1.0, abs=1e-12)

import torch

from mdt_cli.core.sampling.seeds import SeededNoise

SHAPE = (2, 5, 5)


def everything(seeds):
    noise = SeededNoise(seeds, SHAPE)
    start, labels = noise.start(), noise.labels(10)
    return start, labels, torch.stack([noise.step() for _ in range(3)], dim=1)


def test_an_image_does_not_depend_on_its_batch():
    start, labels, steps = everything([0, 5, 9, 123456789])
    for row, seed in enumerate([0, 5, 9, 123456789]):
        alone = everything([seed])
        assert torch.equal(alone[0][0], start[row])
        assert alone[1] == [labels[row]]
        assert torch.equal(alone[2][0], steps[row])


def test_draws_are_distinct_and_standard_normal():
    start, _, steps = everything(list(range(500)))
    everything_drawn = torch.cat([start[:, None], steps], dim=1)
    assert abs(float(everything_drawn.mean())) < 0.02
    assert abs(float(everything_drawn.std()) - 1) < 0.02
    correlation = torch.corrcoef(everything_drawn[:2].flatten(0, 1).flatten(1))
    assert float((correlation - torch.eye(8)).abs().max()) < 0.6


def test_labels_cover_all_classes_evenly():
    noise = SeededNoise(list(range(2000)), (1, 2, 2))
    noise.start()
    counts = torch.bincount(torch.tensor(noise.labels(5)), minlength=5)
    # 400 each; four standard deviations are 72.
    assert (counts - 400).abs().max() < 72

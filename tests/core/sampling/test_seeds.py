import torch

from mdt_cli.core.sampling.seeds import LARGEST_SEED, SeededNoise, drawn_labels

SHAPE = (2, 5, 5)


def everything(seeds):
    noise = SeededNoise(seeds, SHAPE, 10)
    return torch.stack([noise.start(), *(noise.step() for _ in range(3))], dim=1)


def test_an_image_does_not_depend_on_its_batch():
    seeds = [0, 5, 9, 123456789]
    together = everything(seeds)
    labels = drawn_labels(seeds, 10)
    for row, seed in enumerate(seeds):
        assert torch.equal(everything([seed])[0], together[row])
        assert drawn_labels([seed], 10) == [labels[row]]


def test_draws_are_distinct_and_standard_normal():
    drawn = everything(list(range(500)))
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.std()) - 1) < 0.02
    correlation = torch.corrcoef(drawn[:2].flatten(0, 1).flatten(1))
    assert float((correlation - torch.eye(8)).abs().max()) < 0.6


def test_labels_cover_all_classes_evenly():
    counts = torch.bincount(torch.tensor(drawn_labels(range(2000), 5)), minlength=5)
    # 400 each; four standard deviations are 72.
    assert (counts - 400).abs().max() < 72


def test_seeds_up_to_the_largest_differ():
    assert not torch.equal(everything([LARGEST_SEED]), everything([LARGEST_SEED - 1]))
    # The reason for the limit: one more starts again.
    assert torch.equal(everything([LARGEST_SEED + 1]), everything([0]))

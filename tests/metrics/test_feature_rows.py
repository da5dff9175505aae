"""Which rows of features are kept, and in which order."""

import hashlib
import random

import pytest
import torch

from mdt_cli.metrics.feature_rows import RowSample
from mdt_cli.metrics.inception_score import inception_score


def digest(image: int) -> bytes:
    return hashlib.sha256(str(image).encode()).digest()


def kept(
    images: list[int], room: int | None = None, batch: int = 7
) -> tuple[torch.Tensor, RowSample]:
    """Each row holds the number of its image's pixels."""
    rows = RowSample(len(images) if room is None else room, (3,))
    for begin in range(0, len(images), batch):
        part = images[begin : begin + batch]
        values_BW = torch.tensor(part).float()[:, None].expand(-1, 3)
        rows.add([digest(image) for image in part], values_BW)
    return rows.sort(rows.order())[0], rows


def test_copies_are_spread_and_any_part_of_a_collapsed_set_is_a_sample_of_it() -> None:
    rows_KW, _ = kept([k for k in range(10) for _ in range(500)])
    classes_K = rows_KW[:, 0].long()
    sure_KC = torch.nn.functional.one_hot(classes_K, 10).float()
    # Ten classes, equally often, are a score of 10; a part of 500 finds each 50 times +- 7, which
    # costs about 9 / (2 * 500) of it.
    score = inception_score(sure_KC, 30 * torch.eye(10), None, split=500)
    assert score.value == pytest.approx(10, abs=0.2)
    # 200 draws of ten miss none, and find none more often than 20 + 6 deviations of 4.2.
    counts = classes_K[:200].bincount(minlength=10)
    assert counts.min() > 0
    assert counts.max() < 46


def test_the_order_is_the_same_for_any_order_of_files() -> None:
    images = [k % 40 for k in range(100)]
    shuffled = random.Random(0).sample(images, len(images))
    assert torch.equal(kept(images)[0], kept(shuffled)[0])


def test_images_without_copies_come_in_the_order_of_their_digests() -> None:
    rows_KW, _ = kept(list(range(50)))
    assert rows_KW[:, 0].tolist() == sorted(range(50), key=digest)


@pytest.mark.parametrize(("room", "batch"), [(1, 7), (13, 7), (64, 64), (64, 1), (99, 100)])
def test_less_room_keeps_the_leading_rows(room: int, batch: int) -> None:
    images = [k % 70 for k in range(100)]
    whole_KW, all_rows = kept(images)
    part_KW, rows = kept(images, room, batch)
    assert torch.equal(part_KW, whole_KW[:room])
    assert rows.order() == all_rows.order()
    assert [images[place] for place in rows.order()[:room]] == part_KW[:, 0].tolist()

"""Which words name a device, here and on a machine with one GPU."""

import pytest
import torch

from mdt_cli.errors import MdtError
from mdt_cli.services.runtime import pick_device
from mdt_cli.services.train.placement import place


@pytest.mark.parametrize("asked", ["mps", "xpu", "meta", "abacus", "cuda:", "cuda:-1", "cpu:1", ""])
def test_a_device_that_we_do_not_know_is_a_sentence(asked):
    with pytest.raises(MdtError, match=f"no such device: {asked}"):
        pick_device(asked)


def test_a_gpu_beyond_the_last_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(MdtError, match="cuda:2 was asked for, but the last GPU is cuda:1"):
        pick_device("cuda:2")


def test_training_takes_no_gpu_by_its_number():
    with pytest.raises(MdtError, match="--device cuda:1: training takes no GPU") as caught:
        place("no", "cuda:1")
    assert "CUDA_VISIBLE_DEVICES=1" in caught.value.hint

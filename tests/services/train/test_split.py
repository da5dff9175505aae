"""What is held out: a like share of each class, never its last image, and a cut is said."""

from pathlib import Path

import pytest
import torch

from mdt_cli.artifacts.run_folder import read_config
from mdt_cli.services.events import Note
from mdt_cli.services.train.batches import train_data
from mdt_cli.services.train.settings import pretrain_config
from mdt_cli.services.train.split import cut_note, split_rows, stratified_rows
from mdt_cli.services.train.start import finetune, starting_config
from tests.services.training_kit import digests, make_cache, make_images, run, small


def labels(*sizes: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def held(y: torch.Tensor, count: int, seed: int = 0) -> list[int]:
    split = stratified_rows(y, count, seed)
    both = torch.cat([split.train, split.held_out])
    assert both.sort().values.tolist() == list(range(len(y)))
    return y[split.held_out].bincount(minlength=int(y.max()) + 1).tolist()


def test_classes_of_equal_size_give_equally_many() -> None:
    assert held(labels(*[100] * 10), 50) == [5] * 10
    assert max(held(labels(*[20] * 100), 50)) == 1


def test_the_share_of_a_class_is_its_share_of_the_images() -> None:
    for seed in range(5):
        big, middle, small_one = held(labels(1500, 400, 100), 100, seed)
        assert abs(big - 75) <= 1
        assert abs(middle - 20) <= 1
        assert abs(small_one - 5) <= 1


def test_the_last_image_of_a_class_is_never_held_out() -> None:
    assert sum(held(labels(*[1] * 100), 5)) == 0
    counts = held(labels(*[1] * 50, 50), 5)
    assert counts[:50] == [0] * 50
    assert counts[50] == 5
    for seed in range(20):
        assert max(held(labels(*[2] * 30), 3, seed)) == 1


def test_it_is_a_function_of_labels_and_seed() -> None:
    y = labels(30, 30, 40)[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    first, second, other = (stratified_rows(y, 5, seed).held_out for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_cut_is_said_with_the_number() -> None:
    one_each = stratified_rows(labels(*[1] * 100), 256, 0)
    assert "0 images are held out, not data.held_out 256" in str(cut_note(256, one_each, True))
    plain = split_rows(1000, 256, 0)
    assert "50 images are held out" in str(cut_note(256, plain, False))
    assert "last image" not in str(cut_note(256, plain, False))
    assert cut_note(50, plain, False) is None


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    return make_cache(folder / "cache", make_images(folder / "images"))


def test_a_hundred_classes_of_one_image_are_all_trained_on(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", classes=100, per_class=1)
    events = run(make_cache(tmp_path / "cache", images), tmp_path / "run", small(1))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("0 images are held out, not data.held_out 2" in note for note in notes)


def test_a_run_of_the_old_rule_goes_on_under_it(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "old", small(6, "data.split=random"))
    run(cache, tmp_path / "new", small(6))
    assert digests(tmp_path / "old", 6) != digests(tmp_path / "new", 6)
    run(cache, tmp_path / "begun", small(3, "data.split=random"))
    config = tmp_path / "begun" / "config.toml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("split = ")]
    config.write_text("\n".join(lines) + "\n")
    run(cache, tmp_path / "begun", small(6))
    assert digests(tmp_path / "begun", 6) == {**digests(tmp_path / "old", 6)}
    assert read_config(config).data.split == "random"
    assert read_config(tmp_path / "new" / "config.toml").data.split == "stratified"
    assert pretrain_config(tmp_path / "new", [], []).config.data.split == "stratified"


@pytest.mark.parametrize("rule", ["random", "stratified"])
def test_a_later_stage_on_the_same_images_holds_out_the_same(
    cache: Path, tmp_path: Path, rule: str
) -> None:
    run(cache, tmp_path / "run", small(1, f"data.split={rule}"))
    loaded = starting_config(tmp_path / "run", None, [], ["training.steps=1"])
    list(finetune(cache, tmp_path / "last", tmp_path / "run", None, loaded))
    assert read_config(tmp_path / "last" / "config.toml").data.split == rule


def test_the_data_of_a_run_follow_its_rule(cache: Path) -> None:
    from mdt_cli.artifacts.latent_cache.read import open_cache

    opened = open_cache(cache)
    for rule, wanted in (
        ("random", split_rows(40, 2, 0)),
        ("stratified", stratified_rows(opened.labels, 2, 0)),
    ):
        config = small(1, f"data.split={rule}").config
        assert torch.equal(train_data(config, opened, (4, 4)).split.held_out, wanted.held_out)

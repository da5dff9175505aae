"""Composition, sources, and every fault told at once."""

import tomllib

import pytest

from mdt_cli.config.keys import known_keys
from mdt_cli.config.load import load_config
from mdt_cli.config.run import RunConfig
from mdt_cli.config.write import to_toml
from mdt_cli.errors import MdtError


def faults(presets: list[str], assignments: list[str]) -> str:
    with pytest.raises(MdtError) as caught:
        load_config(presets, assignments)
    return str(caught.value)


def test_later_layers_win_and_are_remembered() -> None:
    loaded = load_config(["mdtv2", "size/tiny"], ["model.depth=10", "optimizer.lr=0.5"])
    assert loaded.config.model.depth == 10
    assert loaded.config.model.hidden_size == 96
    assert loaded.config.optimizer.lr == 0.5
    assert loaded.source("model.depth") == "--set model.depth=10"
    assert loaded.source("model.hidden_size") == "preset size/tiny"
    assert loaded.source("masking.fill") == "preset mdtv2"
    assert loaded.source("training.seed") == "default"


def test_set_values_are_toml_and_bare_words_are_strings() -> None:
    config = load_config(
        ["dit"],
        ["ema.decays=[0.5, 0.9]", "training.precision=bf16", "log.tensorboard=true"],
    ).config
    assert config.ema.decays == (0.5, 0.9)
    assert config.training.precision == "bf16"
    assert config.log.tensorboard is True


def test_another_kind_forgets_the_keys_of_the_former() -> None:
    loaded = load_config(["mdtv2"], ["masking.ratio.kind=constant"])
    assert loaded.config.masking.ratio.model_dump() == {"kind": "constant", "value": 0.5}
    assert loaded.source("masking.ratio.low") != "preset mdtv2"


def test_every_fault_at_once_with_who_set_it_and_the_nearest_key() -> None:
    text = faults(
        ["mdtv2"],
        [
            "masking.ration=3",
            "trainig.steps=4",
            "objective.kind=flw",
            "optimizer.lr=-1",
            "model.hidden_size=385",
            "lr=3",
        ],
    )
    for line in (
        "masking.ration: no such key; did you mean masking.ratio?  (set by --set masking.ration=3)",
        "trainig.steps: no such key; did you mean training.steps?  (set by --set trainig.steps=4)",
        "did you mean flow?  (set by --set objective.kind=flw)",
        "optimizer.lr: must be greater than 0, not -1  (set by --set optimizer.lr=-1)",
        "385 is not a multiple of num_heads 6  (set by --set model.hidden_size=385)",
        "lr: no such key; did you mean optimizer.lr?",
    ):
        assert line in text


def test_a_fault_between_two_keys_names_both_setters() -> None:
    text = faults(["mdtv2"], ["model.depth=7"])
    assert "12" not in text
    assert "--set model.depth=7, preset mdtv2" in text


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("masking.restore_at=-3", "set masking.restore_at to -6"),
        ("masking.leave_at=2", "cut through model.long_skips"),
        ("model.decoder_depth=12", "leaves no encoder block"),
        ("sampling.steps=2000", "more than objective.num_timesteps"),
        ("objective.kind=edm", 'set sampling.solver to "heun"'),
        ('masking.views=[{tokens="all", terms=[{region="kept"}]}]', "has no kept tokens"),
        ("training.micro_batch_size=3", "not a multiple of micro_batch_size"),
        ("training.steps", "expected KEY=VALUE"),
    ],
)
def test_values_that_do_not_fit_each_other(assignment: str, message: str) -> None:
    assert message in faults(["mdtv2"], [assignment])


def test_unknown_preset_suggests_the_nearest() -> None:
    assert "did you mean mdtv2?" in faults(["mdtv3"], [])
    assert "no such preset file" in faults(["nowhere/x.toml"], [])


def test_a_preset_may_be_a_file(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nsteps = 7\n")
    assert load_config(["dit", str(path)], []).config.training.steps == 7
    path.write_text("[training\n")
    assert "not valid TOML" in faults([str(path)], [])


def test_written_configuration_reads_back_and_names_setters() -> None:
    loaded = load_config(["mdtv2", "size/s", "cifar10"], ["training.seed=3"])
    text = to_toml(loaded)
    assert RunConfig.model_validate(tomllib.loads(text)) == loaded.config
    assert "# --set training.seed=3" in text
    assert "# preset size/s" in text


def test_known_keys_are_what_the_tables_accept() -> None:
    keys = known_keys()
    assert "optimizer.lr" in keys
    assert "masking.ratio.low" in keys
    assert "masking.ratio.low" not in known_keys({"masking": {"ratio": {"kind": "constant"}}})


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.depth=100000000000000000000", "model.depth: must be at most 1,000"),
        ("model.hidden_size=1000000", "must be at most 65,536"),
        ("model.narrow_decoder.depth=100000", "must be at most 1,000"),
        ("sampling.steps=1000000000", "must be at most 100,000"),
        ("training.batch_size=10000000000", "must be at most 1,000,000"),
        ("preview.max_classes=1e30", "preview.max_classes"),
        ("training.steps=1000000000000000", "must be at most 1,000,000,000,000"),
    ],
)
def test_sizes_that_no_machine_holds_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(MdtError, match=message):
        load_config(["dit"], [assignment])

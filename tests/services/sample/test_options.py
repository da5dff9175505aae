import pytest

from mdt_cli.config.sampling import (
    ConstantGuidanceConfig,
    NoGuidanceConfig,
    PowerCosineGuidanceConfig,
    SamplingConfig,
)
from mdt_cli.errors import MdtError
from mdt_cli.services.sample.options import parse_classes, parse_seeds, taken_as, with_choices

NAMES = ["ant", "bee", "cat, house", "dog"]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("1,5,9", [1, 5, 9]),
        ("0-2,20", [0, 1, 2, 20]),
        ("9, 3 - 4", [9, 3, 4]),
        ("7", [7]),
        ("4294967295", [4294967295]),
    ],
)
def test_seeds_are_numbers_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", '"" is not a seed'),
        ("0-", '"0-" is not a seed'),
        ("a", '"a" is not a seed'),
        ("-3", '"-3" is not a seed'),
        ("1,,2", '"" is not a seed'),
        ("9-0", "9-0 runs backwards"),
        ("0-5,3", "3 is there twice"),
        ("4294967296", "above the largest seed"),
        ("0-4000000000", "more than 10,000,000 images"),
    ],
)
def test_bad_seeds_are_told(text, message):
    with pytest.raises(MdtError, match=message):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("all", [0, 1, 2, 3]),
        ("0,3", [0, 3]),
        ("bee, ant", [1, 0]),
        ("cat, house", [2]),
        ("1-2,dog", [1, 2, 3]),
        ("#1,=dog", [1, 3]),
        ("2,2,0", [2, 2, 0]),
    ],
)
def test_classes_are_indices_names_or_all(text, classes):
    assert parse_classes(text, NAMES) == classes


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("4", "class 4 is out of range", "4 classes, 0 to 3: ant, bee"),
        ("0-9", "class 9 is out of range", "4 classes"),
        ("bees", 'no class "bees"', "the nearest are bee"),
        ("xyzzy", 'no class "xyzzy"', "there are 4 classes, 0 to 3"),
        ("3-1", 'no class "3-1"', None),
    ],
)
def test_classes_that_are_not_there_are_told(text, message, hint):
    with pytest.raises(MdtError, match=message) as caught:
        parse_classes(text, NAMES)
    assert hint is None or hint in caught.value.hint


def test_a_number_that_is_index_and_another_name_must_be_told_apart():
    # Folder names sort as text: "10" comes before "2".
    names = ["0", "1", "10", "2"]
    with pytest.raises(MdtError, match="2 is an index and also the name of class 3") as caught:
        parse_classes("2", names)
    assert "#2" in caught.value.hint
    assert "=2" in caught.value.hint
    assert parse_classes("#2", names) == [2]
    assert parse_classes("=2", names) == [3]
    assert parse_classes("1", names) == [1]


def test_a_number_that_is_only_a_name():
    assert parse_classes("10", ["0", "1", "10", "2"]) == [2]


def test_digit_names_in_their_own_places_are_plain():
    assert parse_classes("0,3", [str(digit) for digit in range(10)]) == [0, 3]


def test_classes_of_a_network_without_any():
    with pytest.raises(MdtError, match="trained without classes"):
        parse_classes("0", [])


def test_nothing_asked_changes_nothing():
    sampling = SamplingConfig(steps=7, guidance=ConstantGuidanceConfig(scale=3.0))
    assert with_choices(sampling, None, None, None) == sampling


def test_a_scale_keeps_the_kind_of_guidance():
    power = SamplingConfig(guidance=PowerCosineGuidanceConfig(scale=3.8, power=2.0))
    assert with_choices(power, 5, "ddim", 2.0) == SamplingConfig(
        steps=5, solver="ddim", guidance=PowerCosineGuidanceConfig(scale=2.0, power=2.0)
    )
    assert with_choices(SamplingConfig(), None, None, 2.0).guidance == ConstantGuidanceConfig(
        scale=2.0
    )


def test_scale_1_is_no_guidance():
    power = SamplingConfig(guidance=PowerCosineGuidanceConfig())
    assert with_choices(power, None, None, 1.0).guidance == NoGuidanceConfig()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ((None, "huen", None), "--solver huen: no such solver; did you mean heun?"),
        ((None, "xyz", None), "--solver xyz: no such solver"),
        ((None, None, None, "bf61"), "--precision bf61: no such precision; did you mean bf16?"),
        ((0, None, None), "--steps 0: .*greater than 0"),
        ((None, None, -1.0), "--guidance -1.0: must be at least 0"),
    ],
)
def test_bad_choices_are_told(choices, message):
    with pytest.raises(MdtError, match=message):
        with_choices(SamplingConfig(), *choices)


OLD_TWELVE = sorted(str(k) for k in range(12))


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("0-3", OLD_TWELVE, "0-3 are indices, named 0, 1, 10, 11"),
        ("0-3", [str(k) for k in range(12)], None),
        ("1-3", [str(k) for k in range(1, 13)], "1-3 are indices, named 2, 3, 4"),
        ("12,#0", [str(k) for k in range(1, 13)], "12 is a name"),
        ("0", [str(k) for k in range(1, 13)], "0 is the index of 1"),
        ("0,1", ["2019", "2020"], "0 is the index of 2019; 1 is the index of 2020"),
        ("=2", ["2", "x"], None),
        ("0-1", ["ant", "bee"], None),
        ("1", ["-1", "0", "x"], "1 is the index of 0"),
        ("all", OLD_TWELVE, None),
    ],
)
def test_what_numbers_were_taken_for_is_said(text, names, said):
    parse_classes(text, names)
    found = taken_as(text, names)
    assert (found is None) if said is None else said in found


def test_digits_of_other_scripts_are_no_indices():
    with pytest.raises(MdtError, match="no class"):
        parse_classes("²", ["a", "b", "c"])

"""Ours beside the numbers that official code printed, rule by rule."""

import pytest

from tests.golden.rules import Rule, worst
from tests.golden.rules_solvers import RULES as SOLVERS
from tests.golden.rules_starts import RULES


@pytest.mark.parametrize("rule", [*RULES, *SOLVERS], ids=lambda rule: f"{rule.recipe}: {rule.rule}")
def test_a_rule_is_that_of_the_official_code(rule: Rule) -> None:
    assert worst(rule, rule.ours()) <= rule.within

"""From the [masking] table to selectors and views."""

from typing import assert_never

from mdt_cli.config.masking import (
    CropWindowConfig,
    MaskingConfig,
    RandomBlocksConfig,
    RandomTokensConfig,
    ViewConfig,
)
from mdt_cli.config.run import RunConfig
from mdt_cli.core.masking.tokens import CropWindow, RandomBlocks, RandomTokens, Selector
from mdt_cli.core.objectives.training_step import Term, View
from mdt_cli.errors import MdtError


def build_selector(masking: MaskingConfig, grid: tuple[int, int]) -> Selector:
    """What decides which tokens are kept; MdtError where it does not fit the grid of tokens."""
    table, sides = masking.selector, f"{grid[0]}x{grid[1]}"
    match table:
        case RandomTokensConfig():
            return RandomTokens(table.bucket, table.floor)
        case RandomBlocksConfig():
            if masking.is_masked and (grid[0] % table.size or grid[1] % table.size):
                fit = [str(n) for n in range(1, min(grid) + 1) if not (grid[0] % n or grid[1] % n)]
                raise MdtError(
                    f"masking.selector.size {table.size} does not divide the grid of {sides} "
                    "tokens",
                    f"blocks may have the sizes {', '.join(fit)}",
                )
            return RandomBlocks(table.size)
        case CropWindowConfig():
            if masking.is_masked and table.size > min(grid):
                raise MdtError(
                    f"masking.selector.size {table.size} exceeds the grid of {sides} tokens",
                    f"a window may have a size up to {min(grid)}",
                )
            return CropWindow(table.size)
        case _:
            assert_never(table)


def build_views(config: RunConfig) -> list[View]:
    """Views on all tokens first: the last backward pass then touches every parameter.

    With an early head, each view has a term for it: its own, or the objective.
    """
    masking = config.masking
    views = sorted(masking.views, key=lambda view: view.tokens != "all")
    clean_fill = masking.fill == "clean_patches"
    return [
        View(
            view.tokens,
            _terms(config, view),
            clean_fill and view.tokens == "kept",
        )
        for view in views
    ]


def _terms(config: RunConfig, view: ViewConfig) -> tuple[Term, ...]:
    terms = [Term(t.region, t.target, t.normalise, t.weight, t.head) for t in view.terms]
    if config.model.early_head_at and all(term.head == "final" for term in terms):
        region = next((term.region for term in terms if term.target == "objective"), "all")
        if view.tokens == "kept" and config.early_head_is_routed:
            region = "kept"
        terms.append(Term(region, weight=config.model.early_weight, head="early"))
    return tuple(terms)

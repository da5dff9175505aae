"""A curve between 0 and 1 as lines of text."""

from collections.abc import Sequence

ROWS, COLUMNS = 8, 60
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def chart(low: Sequence[float], high: Sequence[float], fancy: bool) -> list[str]:
    """One bar per value: filled up to `low`, shaded from there to `high`, with a scale of tenths.

    `fancy` draws eighths of a row with block characters; without it the text is plain ASCII.
    """
    top = min(10, max(1, -(-max(high) * 10 // 1))) / 10
    lines = []
    for row in reversed(range(ROWS)):
        label = {ROWS - 1: f"{top:.1f}", 0: "0.0"}.get(row, "")
        cells = (_cell(row, a / top, b / top, fancy) for a, b in zip(low, high, strict=True))
        lines.append(f"{label:>5} |{''.join(cells)}".rstrip())
    lines.append(f"{'':>5} +{'-' * len(low)}")
    return lines


def _cell(row: int, low: float, high: float, fancy: bool) -> str:
    """What of row `row` (from the bottom) lies under the two heights."""
    filled, shaded = (min(1.0, max(0.0, height * ROWS - row)) for height in (low, high))
    if fancy:
        if shaded - filled > 0.5:
            return "░"
        return _EIGHTHS[round(8 * filled)]
    return "#" if filled >= 0.5 else "." if shaded >= 0.5 else " "

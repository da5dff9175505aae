"""What every config table shares: frozen, unknown keys forbidden, bounds in the type."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# No count that anybody means is above these; more would fill the memory before anything is said.
MOST, MOST_BLOCKS, MOST_CHANNELS, MOST_IMAGES, MOST_SAMPLING_STEPS = (
    10**12,
    1000,
    2**16,
    10**6,
    10**5,
)
Count = Annotated[int, Field(gt=0, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
Blocks = Annotated[int, Field(gt=0, le=MOST_BLOCKS)]
BlocksOrZero = Annotated[int, Field(ge=0, le=MOST_BLOCKS)]
Width = Annotated[int, Field(gt=0, le=MOST_CHANNELS)]
WidthOrZero = Annotated[int, Field(ge=0, le=MOST_CHANNELS)]
BatchSize = Annotated[int, Field(gt=0, le=MOST_IMAGES)]
BatchSizeOrZero = Annotated[int, Field(ge=0, le=MOST_IMAGES)]
SamplingSteps = Annotated[int, Field(gt=0, le=MOST_SAMPLING_STEPS)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _kinds_by_default(cls, given: Any) -> Any:
        """A variant without a kind is of the default kind: an overlay may set its lr alone."""
        if not isinstance(given, Mapping):
            return given
        filled = dict(given)
        for name, field in cls.model_fields.items():
            value, default = filled.get(name), field.default
            if isinstance(value, Mapping) and "kind" not in value and isinstance(default, Table):
                kind = type(default).model_fields.get("kind")
                filled[name] = {**value, "kind": kind.default} if kind else value
        return filled


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result

"""What every config table shares: frozen, unknown keys forbidden, bounds in the type."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# More than anyone trains or has; a number with more digits is a slip.
MOST = 10**12
Count = Annotated[int, Field(gt=0, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
# Of a network: far above every published one, and still a number of bytes.
Width = Annotated[int, Field(gt=0, le=1 << 16)]
WidthOrZero = Annotated[int, Field(ge=0, le=1 << 16)]
Depth = Annotated[int, Field(gt=0, le=1024)]
DepthOrZero = Annotated[int, Field(ge=0, le=1024)]
# Evaluations of a network for one image.
SolverSteps = Annotated[int, Field(gt=0, le=100_000)]


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

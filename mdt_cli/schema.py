"""Whether a value that was read has the shape its readers rely on: one check for every format."""

from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from mdt_cli.text import shortened

Shape = TypeVar("Shape")

# Numbers that files may hold: none that torch, numpy or a float cannot.
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=128)]
# The name of a file beside the one that names it.
Beside = Annotated[str, Field(pattern=r"^[^/\\\x00]+$", max_length=255)]


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def check_schema(shape: type[Shape], value: object) -> Shape:
    """`value` itself, where it is a `shape` (a TypedDict; other keys may be there too).

    ValueError names the first place that is not, and what was expected there.
    """
    try:
        _adapter(cast(Any, shape)).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(shortened(str(part), 40) for part in first["loc"]) or "it"
        message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        given = "" if first["type"] == "missing" else f", not {shortened(repr(first['input']), 60)}"
        raise ValueError(f"{place}: {message}{given}") from error
    return cast(Shape, value)

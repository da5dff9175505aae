"""The header of a safetensors file, for readers that take rows at their offset."""

from collections.abc import Mapping
from typing import Annotated, BinaryIO

from pydantic import Field
from typing_extensions import TypedDict

from mdt_cli.json_reader import parse_json
from mdt_cli.schema import Whole, check_schema

# What the safetensors library itself reads of a header.
MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"


class TensorFields(TypedDict):
    """Where a tensor lies behind the header, and what it is."""

    dtype: str
    shape: list[Whole]
    data_offsets: Annotated[list[Whole], Field(min_length=2, max_length=2)]


def read_tensor_header(file: BinaryIO, size: int) -> tuple[Mapping[str, TensorFields], int]:
    """The tensors of a file of `size` bytes that is at its beginning, and where their bytes start.

    ValueError where the header is none, or names bytes that the file does not have.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise ValueError(f"its header of {length} bytes does not fit into it")
    header = parse_json(file.read(length))
    if isinstance(header, dict):
        header.pop(METADATA, None)
    tensors = check_schema(dict[str, TensorFields], header)
    start = 8 + length
    for name, tensor in tensors.items():
        first, last = tensor["data_offsets"]
        if not first <= last <= size - start:
            raise ValueError(f"{name} lies outside of it")
    return tensors, start

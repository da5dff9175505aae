"""A pickle of plain values and byte arrays, as CIFAR's batches are; nothing else is built."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mdt_cli.errors import MdtError
from mdt_cli.images.archives import MAX_BYTES
from mdt_cli.images.pickles import refused_pickle


def plain_entries(path: Path) -> Mapping[str, Any]:
    """The dictionary in such a file. MdtError where it asks for anything else, or is damaged."""
    try:
        found = _Unpickler(io.BytesIO(whole_file(path)), encoding="bytes").load()
    except _ForeignError as error:
        raise refused_pickle(path) from error
    # What a pickle that is cut short or made up runs into; it can only fail to be these values.
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise MdtError(f"{path} is not a readable pickle: {error}", "download it again") from error
    if not isinstance(found, dict):
        raise MdtError(f"{path} is no batch of CIFAR", "give the folder of its batches")
    return {as_words(key): _array_of(value) for key, value in found.items()}


def whole_file(path: Path) -> bytes:
    """The bytes of a file of at most MAX_BYTES. Raises MdtError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MdtError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise MdtError(f"{path} is larger than {MAX_BYTES} bytes", "write the images as an npz")
    return data


def as_words(value: bytes | str) -> str:
    """A text, which Python 2 stored as bytes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


class _ForeignError(Exception):
    """A pickle asks for a class or function that no batch of images needs."""


class _Kind:
    """Stands for numpy.dtype: its name alone is kept."""

    def __init__(self, name: Any = "", *options: Any) -> None:
        self.name = as_words(_of(name, str, bytes))

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands for numpy.ndarray: what is stored of it is kept, and nothing is allocated."""

    stored: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.stored = tuple(state)


def _array(*_: Any) -> _Array:
    return _Array()


def _encoded(text: Any, _: Any = None) -> bytes:
    return bytes(_of(text, str).encode("latin-1"))


def _of(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{type(value).__name__} where a text belongs")
    return value


# Everything that such a pickle may name, and what stands for it here.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encoded,
}


# The one in Python: that in C takes memory for numbers and lengths that a few bytes can claim.
_Python: Any = pickle._Unpickler
# Sets, and dictionaries of protocol 0: not in such files, and their keys would need a check.
_LEFT_OUT = {code[0] for code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.DICT)}


class _Unpickler(_Python):
    dispatch: ClassVar[dict[int, Any]] = {
        code: method for code, method in _Python.dispatch.items() if code not in _LEFT_OUT
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForeignError(f"{module}.{name}")
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        _of(self.stack[-2], _Array, _Kind)
        super().load_build()

    def load_setitem(self) -> None:
        # To hash a tuple of tuples may take for ever.
        _of(self.stack[-2], str, bytes)
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            _of(key, str, bytes)
        super().load_setitems()

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


def _array_of(value: Any) -> Any:
    """A byte array from what was stored of it; any other value as it is."""
    if not isinstance(value, _Array):
        return value
    try:
        _, shape, kind, fortran, data = value.stored
        width = {"u1": np.uint8, "i8": np.int64, "i4": np.int32}[kind.name.lstrip("|<")]
        values = np.frombuffer(data, width)
        if fortran:
            return values.reshape(tuple(map(int, shape[::-1]))).T
        return values.reshape(tuple(map(int, shape)))
    except (ValueError, TypeError, LookupError, AttributeError):
        return None

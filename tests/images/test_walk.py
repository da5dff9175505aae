"""Links that lead nowhere, and what systems put into folders."""

import pytest

from mdt_cli.images.files import walk


def test_links_that_lead_back_to_themselves_are_broken_links(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"12")
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    (tmp_path / "a" / "one.png").symlink_to("two.png")
    (tmp_path / "a" / "two.png").symlink_to("one.png")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "a" / "up").symlink_to("..")
    found = dict(walk(tmp_path))
    broken = dict.fromkeys(("a/self.png", "a/one.png", "a/two.png", "a/gone.png"))
    assert found == {"a/1.png": 2, **broken}


@pytest.mark.parametrize("name", ["self", "loop"])
def test_a_folder_that_is_a_loop_is_no_folder(name, tmp_path):
    (tmp_path / name).symlink_to(name)
    assert dict(walk(tmp_path)) == {name: None}

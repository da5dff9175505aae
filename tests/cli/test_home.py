"""`~` where no shell has replaced it."""

import pytest

from mdt_cli.cli.home import with_home


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("~", "/home/me"),
        ("~/run", "/home/me/run"),
        ("--out=~/r.json", "--out=/home/me/r.json"),
        ("-o=~/x", "-o=/home/me/x"),
        ("log.folder=~/logs", "log.folder=/home/me/logs"),
        ('log.folder="~/my logs"', 'log.folder="/home/me/my logs"'),
        ("log.folder='~/x'", "log.folder='/home/me/x'"),
        ("--set=log.folder=~/x", "--set=log.folder=/home/me/x"),
        ("~/a b/c", "/home/me/a b/c"),
        # Nothing of these is a home folder.
        ("a~/b", "a~/b"),
        ("~draft", "~draft"),
        ("log.name=~draft", "log.name=~draft"),
        ("~nobody-here/x", "~nobody-here/x"),
        ("!~/x", "!~/x"),
        ("hf:~/x", "hf:~/x"),
        ("run~", "run~"),
        ("", ""),
    ],
)
def test_home(word, becomes, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert with_home([word]) == [becomes]

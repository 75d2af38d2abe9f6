from __future__ import annotations

from pathlib import Path

import pytest

from mirror_sync.domain.names import MirrorName, parse_mirror_name
from mirror_sync.errors import RepositoryDamaged, UsageError
from mirror_sync.repos.layout import layout_of, view_number

BASE = Path("/srv/git")


@pytest.mark.parametrize(
    "name",
    [
        "github.com/acme/model",
        "127.0.0.1:9000/acme/model",
        "[::1]:8080/a",
        "git.example.org/a/b/c/d",
        "git.example.org/a b".replace(" ", "%20"),
        "git.example.org/~user/x",
        "git.example.org/模型/权重",
    ],
)
def test_a_mirror_has_its_directory(name):
    layout = layout_of(BASE, parse_mirror_name(name))
    assert str(layout.root) == f"/srv/git/{name}.git"
    assert layout.store_objects == layout.root / "store" / "objects"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "host",
        "/a",
        "../a",
        "host/../x",
        "host/..",
        "host/a/../../x",
        "host//a",
        "host/a/",
        "host/./a",
        "host/a.git",
        "host/a.git/b",
        "host/a\0b",
        "host/a\nb",
        "host/-x",
        "ho..st/a",
        ".host/a",
        "HOST/a",
        "host:x/a",
        "ho st/a",
        "host/a\\b",
        "host/a.lock",
        "host/" + "a" * 201,
        "host/" + "a/" * 600 + "a",
    ],
)
def test_no_name_leads_elsewhere(name):
    with pytest.raises(UsageError):
        layout_of(BASE, MirrorName(name))


def test_no_mirror_lies_inside_another():
    names = ["h/a", "h/a/b", "h/a/b/c", "h/store", "h/a/views", "h/a/store/objects"]
    roots = [layout_of(BASE, MirrorName(name)).root for name in names]
    for root in roots:
        assert not any(other != root and other.is_relative_to(root) for other in roots)


def test_the_symlink_names_the_view(tmp_path):
    layout = layout_of(tmp_path, MirrorName("h/a"))
    assert layout.current_number() == 0
    assert layout.current_view() is None
    layout.root.mkdir(parents=True)
    layout.current.symlink_to("views/12")
    assert layout.current_number() == 12
    assert layout.current_view() == layout.root / "views" / "12"


@pytest.mark.parametrize("target", ["views/0", "views/01", "views/x", "/views/1", "../views/1", "views/1/2", "store"])
def test_a_symlink_elsewhere_is_damage(tmp_path, target):
    layout = layout_of(tmp_path, MirrorName("h/a"))
    layout.root.mkdir(parents=True)
    layout.current.symlink_to(target)
    with pytest.raises(RepositoryDamaged):
        layout.current_number()


def test_a_plain_file_in_place_of_the_symlink_is_damage(tmp_path):
    layout = layout_of(tmp_path, MirrorName("h/a"))
    layout.root.mkdir(parents=True)
    layout.current.write_text("views/1")
    with pytest.raises(RepositoryDamaged):
        layout.current_number()


def test_view_numbers():
    assert [view_number(text) for text in ("1", "42", "0", "01", "-1", ".new-3", "x", "1" * 30)] == [1, 42] + [None] * 6

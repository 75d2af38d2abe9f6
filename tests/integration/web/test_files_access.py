"""Files, checksum lists and the Hugging Face interface are given to those who may clone, and to nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Visibility
from mirror_sync.web import create_app
from tests.support.upstream import GitUpstream
from tests.support.web_world import MirrorSpec, World, make_world

PATHS = (
    "/{name}/resolve/main/README.md", "/{name}/resolve/main/weights.bin", "/{name}/checksums/main",
    "/hf/{name}/resolve/main/README.md", "/hf/{name}/resolve/main/weights.bin", "/hf/api/models/{name}",
    "/hf/api/models/{name}/tree/main", "/hf/api/datasets/{name}/refs",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with GitUpstream(tmp_path_factory.mktemp("source")) as upstream:
        repo = upstream.create("acme/model")
        repo.commit({"README.md": "hello\n"}, lfs={"weights.bin": b"W" * 5000})
        specs = {
            f"git.example/acme/{word.value}": MirrorSpec(
                repository=str(repo.path), **{"queued" if number else "objects": ["W" * 5000]}
            )
            for number, word in enumerate(Visibility)
        }
        with make_world(tmp_path_factory.mktemp("mirror"), specs) as world:
            for word in Visibility:
                mirror = world.state.mirror(MirrorName(f"git.example/acme/{word.value}"))
                world.state.set_visibility(mirror.id, word)
            yield world


@pytest.fixture
def client(world: World) -> FlaskClient:
    return create_app(world).test_client()


def token(world: World, glob: str) -> str:
    return world.create_token([glob], lasts=3600.0, note="")[0]


def get(client: FlaskClient, path: str, name: str, *, bearer: str = "") -> tuple[int, str, bytes]:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    answer = client.get(path.format(name=f"git.example/acme/{name}"), headers=headers, buffered=True)
    return answer.status_code, answer.headers.get("Cache-Control", ""), answer.data


@pytest.mark.parametrize("path", PATHS)
def test_files_are_for_those_who_may_clone(world: World, client: FlaskClient, path: str) -> None:
    good, other = token(world, "*/acme/token"), token(world, "elsewhere.example/*")
    for word in (Visibility.PUBLIC, Visibility.OPEN):
        status, cached, _ = get(client, path, word)
        assert (status, "private" in cached) == (200, False)
    for word in (Visibility.TOKEN, Visibility.UPSTREAM):
        assert get(client, path, word)[0] == 401
        assert get(client, path, word, bearer="msy_" + "0" * 43)[0] == 401
    status, cached, _ = get(client, path, Visibility.TOKEN, bearer=good)
    assert status == 200
    assert "private" in cached
    assert "public" not in cached
    assert get(client, path, Visibility.TOKEN, bearer=other)[0] == 404
    assert get(client, path, Visibility.NONE)[0] == get(client, path, Visibility.NONE, bearer=good)[0] == 404


@pytest.mark.parametrize("path", PATHS)
def test_a_hidden_mirror_is_told_of_as_one_that_is_not_here(world: World, client: FlaskClient, path: str) -> None:
    other = token(world, "elsewhere.example/*")
    for word in (Visibility.NONE, Visibility.TOKEN):
        hidden = get(client, path, word, bearer=other)[2].replace(word.value.encode(), b"X")
        assert hidden == get(client, path, "nobody", bearer=other)[2].replace(b"nobody", b"X")

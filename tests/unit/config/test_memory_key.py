from __future__ import annotations

from pathlib import Path

import pytest

from mirror_sync.config import load
from mirror_sync.errors import ConfigError


def configured(directory: Path, text: str) -> int | None:
    path = directory / "config.toml"
    path.write_text(text)
    return load(path, environ={}).git.max_memory_bytes


def test_what_one_git_command_may_take(tmp_path: Path) -> None:
    assert configured(tmp_path, "") is None
    assert configured(tmp_path, '[git]\nmax_memory = "auto"\n') is None
    assert configured(tmp_path, '[git]\nmax_memory = "none"\n') == 0
    assert configured(tmp_path, '[git]\nmax_memory = "3GiB"\n') == 3 << 30


@pytest.mark.parametrize(
    ("value", "said"), [('"255MiB"', "256MiB"), ("2", "GiB"), ('"0B"', "256MiB"), ('"much"', "size")]
)
def test_what_cannot_be_meant(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, f"[git]\nmax_memory = {value}\n")
    (problem,) = caught.value.problems
    assert "git.max_memory" in problem
    assert said in problem

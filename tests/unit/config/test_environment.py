from __future__ import annotations

from mirror_sync.config import scrub


def test_only_what_the_daemon_needs_stays() -> None:
    kept = {
        "PATH": "/bin", "HOME": "/h", "LANG": "C", "LC_ALL": "C", "TZ": "UTC", "CREDENTIALS_DIRECTORY": "/c",
        "NOTIFY_SOCKET": "@n", "LISTEN_FDS": "1", "WATCHDOG_USEC": "1", "XDG_RUNTIME_DIR": "/r",
        "MIRROR_SYNC__SCHEDULE__INTERVAL": "5m", "HTTPS_PROXY": "p",
    }  # fmt: skip
    gone = {
        "GIT_DIR": "/x", "GIT_SSH_COMMAND": "evil", "GIT_TRACE": "1", "SSH_AUTH_SOCK": "/s", "SSH_ASKPASS": "a",
        "LD_PRELOAD": "x.so", "LD_LIBRARY_PATH": "x", "GITHUB_TOKEN": "t", "HF_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "s",
        "PYTHONPATH": "/x", "PYTHONSTARTUP": "/x", "EDITOR": "vi", "NETRC": "/n", "GIT_CONFIG_COUNT": "1",
    }  # fmt: skip
    environ = {**kept, **gone}
    assert scrub(environ) == tuple(sorted(gone))
    assert environ == kept

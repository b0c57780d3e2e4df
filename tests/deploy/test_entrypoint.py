"""The container's entrypoint, run without a container: the real script and command, folders for volumes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "docker" / "entrypoint.sh"
EX_CANTCREAT = 73
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def volumes(tmp_path: Path) -> Mapping[str, str]:
    """What Dockerfile.cuda sets, with folders below tmp_path; the interpreter's folder first, as in the image."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NIGHTBATCH_STORE__FOLDER": str(tmp_path / "data"),
        "NIGHTBATCH_SERVER__HOST": "127.0.0.1",
        "NIGHTBATCH_SERVER__PORT": str(free_port()),
        "HF_HOME": str(tmp_path / "models" / "huggingface"),
        "XDG_CACHE_HOME": str(tmp_path / "models" / "cache"),
    }


def run(environment: Mapping[str, str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def served(volumes: Mapping[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/sh", str(SCRIPT), "--simulate", "gpu-8b"], env=volumes, cwd=tmp_path, stdout=log, stderr=log
        )
    deadline = time.monotonic() + START_SECONDS_MAX
    while not answers(f"http://127.0.0.1:{volumes['NIGHTBATCH_SERVER__PORT']}/readyz"):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def test_flags_go_to_serve(volumes: Mapping[str, str], tmp_path: Path) -> None:
    done = run(volumes, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "serve" in done.stdout
    assert "--upstream" in done.stdout


def test_another_word_is_a_command_of_nightbatch(volumes: Mapping[str, str], tmp_path: Path) -> None:
    done = run(volumes, "submit", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--wait" in done.stdout


def test_the_folders_are_made(volumes: Mapping[str, str], tmp_path: Path) -> None:
    run(volumes, "--help", cwd=tmp_path)
    for folder in ("data", "models/huggingface", "models/cache"):
        assert (tmp_path / folder).is_dir()
        assert not list((tmp_path / folder).iterdir())


def test_a_folder_that_cannot_be_made_is_named_with_the_user_that_tried(
    volumes: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run({**volumes, "NIGHTBATCH_STORE__FOLDER": str(tmp_path / "file" / "data")}, "--help", cwd=tmp_path)
    assert done.returncode == EX_CANTCREAT
    assert "cannot create the data folder" in done.stderr
    assert f"{os.getuid()}:{os.getgid()}" in done.stderr


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to become somebody else")
def test_a_volume_of_another_user_is_refused_with_what_to_do(volumes: Mapping[str, str]) -> None:
    # Below /tmp, because pytest's own folders are closed to others.
    folder = Path("/tmp") / f"nightbatch-entrypoint-{os.getpid()}"
    folder.mkdir(mode=0o755)
    script = shutil.copy(SCRIPT, folder)
    try:
        done = subprocess.run(
            ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "/bin/sh", script, "--help"],
            env={**volumes, "NIGHTBATCH_STORE__FOLDER": str(folder), "HOME": "/tmp"},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        shutil.rmtree(folder)
    assert done.returncode == EX_CANTCREAT
    assert "cannot be written by user 10001:10001" in done.stderr
    assert "belongs to 0:0" in done.stderr
    assert "--user 0:0" in done.stderr


def test_a_user_without_a_home_gets_one_on_the_models_volume(volumes: Mapping[str, str], tmp_path: Path) -> None:
    without = {name: value for name, value in volumes.items() if name != "HOME"}
    assert run(without, "--help", cwd=tmp_path).returncode == 0
    assert (tmp_path / "models" / "cache" / "home").is_dir()


def test_health_fails_when_nothing_listens(volumes: Mapping[str, str], tmp_path: Path) -> None:
    assert run(volumes, "health", cwd=tmp_path).returncode != 0


def test_it_becomes_the_server_which_is_healthy_and_ends_at_sigterm(
    served: subprocess.Popen[bytes], volumes: Mapping[str, str], tmp_path: Path
) -> None:
    command = Path(f"/proc/{served.pid}/cmdline").read_bytes()
    assert b"nightbatch" in command
    assert b"entrypoint" not in command
    assert run(volumes, "health", cwd=tmp_path).returncode == 0
    assert (tmp_path / "data" / "nightbatch.sqlite3").is_file()
    served.send_signal(signal.SIGTERM)
    assert served.wait(STOP_SECONDS_MAX) in {0, -signal.SIGTERM}

"""What the image and the compose file promise, read from their text: Docker itself is not needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nightbatch.config import load

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile.cuda").read_text()


def variables() -> dict[str, str]:
    """Every `ENV NAME=value` of the runtime stage."""
    runtime = DOCKERFILE.split(" AS runtime", 1)[1]
    joined = re.sub(r"\\\n\s*", " ", runtime)
    return dict(pair.split("=", 1) for line in re.findall(r"^ENV (.+)$", joined, re.MULTILINE) for pair in line.split())


def test_the_server_knows_every_setting_of_the_image() -> None:
    config = load(
        None, environment={name: value for name, value in variables().items() if name.startswith("NIGHTBATCH_")}
    )
    assert config.server.host == "0.0.0.0"
    assert config.server.port == 8000
    assert config.store.folder == Path("/data")


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["${UID}:${GID}"]
    assert int(re.findall(r"^ARG UID=(\d+)$", DOCKERFILE, re.MULTILINE)[0]) > 0


def test_data_and_models_are_volumes_and_all_caches_lie_on_them() -> None:
    assert 'VOLUME ["/data", "/models"]' in DOCKERFILE
    folders = [variables()[name] for name in ("HF_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR")]
    assert all(folder.startswith("/models/") for folder in folders)


def test_signals_reach_the_server() -> None:
    assert 'ENTRYPOINT ["tini", "--", "nightbatch-entrypoint"]' in DOCKERFILE
    script = (ROOT / "deploy" / "docker" / "entrypoint.sh").read_text()
    assert all(
        line.startswith("exec ")
        for line in map(str.strip, script.splitlines())
        if "nightbatch serve" in line and not line.startswith("#")
    )


def test_everything_that_is_copied_is_let_through_to_the_build() -> None:
    let_through = {
        line[1:] for line in (ROOT / "Dockerfile.cuda.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+)$", DOCKERFILE, re.MULTILINE)]
    assert {source for sources in copied for source in sources} == let_through


def test_the_compose_file_reserves_gpus_and_publishes_to_this_machine_only() -> None:
    yaml = pytest.importorskip("yaml")
    service: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yaml").read_text())["services"][
        "server"
    ]
    (gpus,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert gpus["capabilities"] == ["gpu"]
    assert service["ports"][0].startswith("${PUBLISH:-127.0.0.1:")
    assert {volume.split(":")[1] for volume in service["volumes"]} == {"/data", "/models"}
    assert (ROOT / "deploy" / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()

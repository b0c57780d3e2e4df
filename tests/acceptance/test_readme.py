"""The quick start of the README, taken from it as it stands and run against a real server; only the port is another."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batches import chat_and_embeddings
from tests.support.process import ServerProcess

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
MODEL = "Qwen/Qwen3-8B"
ADDRESS = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def readme_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves the README's model, simulated."""
    config = chat_and_embeddings(MODEL)
    process = ServerProcess(tmp_path_factory.mktemp("readme"), config=config).start()
    yield process
    process.stop()


def block(language: str, holding: str, server: ServerProcess) -> str:
    """The one block of the README in this language that holds a text."""
    found = [code for kind, code in BLOCK.findall(README) if kind == language and holding in code]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {holding!r}"
    return str(found[0]).replace(ADDRESS, server.url)


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(readme_server: ServerProcess, tmp_path: Path) -> Path:
    """A folder with the README's questions, written by the README's own line."""
    run(["sh", "-ec", block("sh", "cat > questions.jsonl", readme_server)], tmp_path)
    assert len((tmp_path / "questions.jsonl").read_text().splitlines()) == 2
    return tmp_path


def answered(text: str) -> None:
    results = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [result["custom_id"] for result in results] == ["a", "b"]
    for result in results:
        assert result["response"]["body"]["choices"][0]["message"]["content"]


def test_the_python_of_the_readme_runs(folder: Path, readme_server: ServerProcess) -> None:
    (folder / "quickstart.py").write_text(block("python", "batches.create", readme_server))
    answered(run([sys.executable, "quickstart.py"], folder))


def test_the_node_of_the_readme_runs(node: Path, folder: Path, readme_server: ServerProcess) -> None:
    (folder / "quickstart.mjs").write_text(block("js", "batches.create", readme_server))
    (folder / "node_modules").symlink_to(node / "node_modules")
    answered(run(["node", "quickstart.mjs"], folder))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_of_the_readme_runs(folder: Path, readme_server: ServerProcess) -> None:
    answered(run(["sh", "-ec", block("sh", "curl", readme_server)], folder))


def test_the_command_of_the_readme_runs(folder: Path, readme_server: ServerProcess) -> None:
    command = block("sh", "nightbatch submit", readme_server)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run(["sh", "-ec", command], folder, PATH=path, NIGHTBATCH_URL=readme_server.url, NO_COLOR="1")
    outputs = [path for path in folder.rglob("*.jsonl") if path.name != "questions.jsonl"]
    assert len(outputs) == 1
    answered(outputs[0].read_text())


DOCUMENTS = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("*/README.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    local = [link.partition("#") for link in links if not re.match(r"[a-z]+:", link)]
    for path, _, anchor in local:
        target = document.parent / path if path else document
        assert target.exists(), f"{path} is not there"
        if anchor:
            assert anchor in headings(target), f"{path} has no heading #{anchor}"


def headings(document: Path) -> set[str]:
    """The anchors that a reader's browser knows."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

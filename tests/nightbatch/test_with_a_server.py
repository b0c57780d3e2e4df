"""The command against a real server process on the simulated engine, as a person would use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nightbatch import exits
from tests.support.batches import chat_line, simulated
from tests.support.process import ServerProcess

COMMAND = Path(sys.executable).with_name("nightbatch")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("server"), config=simulated()).start()
    yield process
    process.stop()


def run(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTBATCH_", "OPENAI_"))}
    environment = {**settings, "NIGHTBATCH_URL": server.url, "COLUMNS": "200"}
    return subprocess.run(
        [str(COMMAND), *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False
    )


def written(folder: Path, lines: Sequence[bytes]) -> Path:
    path = folder / "in.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_submit_and_wait_ends_with_the_results_on_disk(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line(f"c{number}", "hello") for number in range(30)])
    done = run(server, "submit", str(source), "--wait", "--output", str(tmp_path / "out"), "--metadata", "team=a=b")
    assert done.returncode == exits.OK, done.stderr
    batch_id = done.stdout.split()[0]
    assert f"{batch_id} completed: 30 of 30 lines succeeded" in done.stdout
    assert "tok/s" in done.stdout
    results = tmp_path / "out" / f"{batch_id}_output.jsonl"
    assert f"results: {results}" in done.stdout
    assert [json.loads(line)["custom_id"] for line in results.read_text().splitlines()] == [f"c{n}" for n in range(30)]
    assert [path.name for path in results.parent.iterdir()] == [results.name]
    assert json.loads(run(server, "status", batch_id, "--json").stdout)["metadata"] == {"team": "a=b"}


def test_lines_that_ask_the_same_run_once_when_asked_for(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line(f"c{number}", "hello", temperature=0) for number in range(30)])
    done = run(server, "submit", str(source), "--wait", "--output", str(tmp_path), "--reuse", "batch")
    assert done.returncode == exits.OK, done.stderr
    assert "completed: 30 of 30 lines succeeded (29 of them reused)" in done.stdout
    assert "29 had the answer of an identical line" in run(server, "status", done.stdout.split()[0]).stdout


def test_a_batch_with_a_failed_line_exits_with_1_and_has_both_files(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line("good", "hello"), chat_line("bad", "far too long " * 5_000)])
    done = run(server, "submit", str(source), "--wait", "--output", str(tmp_path))
    assert done.returncode == exits.SOME_FAILED
    assert "1 of 2 lines succeeded, 1 failed" in done.stdout
    [errors] = tmp_path.glob("batch_*_error.jsonl")
    assert json.loads(errors.read_text())["custom_id"] == "bad"


def test_a_refused_batch_exits_with_3_and_names_the_line(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line("a", "hello"), b"{broken"])
    done = run(server, "submit", str(source), "--wait", "--output", str(tmp_path))
    assert done.returncode == exits.BATCH_FAILED
    assert "line 2: invalid_json_line" in done.stdout


def test_what_the_server_refuses_is_one_line(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line("a", "hello")])
    done = run(server, "submit", str(source), "--window", "5m")
    assert done.returncode == exits.USAGE
    assert "24h" in done.stderr
    assert "HTTP 400" in done.stderr
    done = run(server, "status", "batch_unknown")
    assert (done.returncode, done.stderr.count("\n")) == (exits.USAGE, 1)
    assert "HTTP 404" in done.stderr


def test_without_waiting_it_says_how_to_go_on(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line("a", "hello")])
    done = run(server, "submit", str(source))
    assert done.returncode == exits.OK
    batch_id = done.stdout.split()[0]
    assert f"nightbatch status {batch_id}" in done.stdout
    assert "completed" in run(server, "status", batch_id, "--watch").stdout
    results = run(server, "results", batch_id, "--output", str(tmp_path / "later"))
    assert results.returncode == exits.OK
    assert (tmp_path / "later" / f"{batch_id}_output.jsonl").is_file()
    table = run(server, "status").stdout
    assert batch_id in table
    assert "/v1/chat/completions" in table
    cancelled = run(server, "cancel", batch_id)
    assert cancelled.returncode == exits.USAGE
    assert cancelled.stderr.count("\n") == 1


def test_a_deadline_by_the_clock_is_sent_and_shown(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line("a", "hello")])
    done = run(server, "submit", str(source), "--by", "07:00")
    assert done.returncode == exits.OK, done.stderr
    assert "window 24h, by " in done.stdout
    assert "07:00:00 (in " in done.stdout
    batch = json.loads(run(server, "status", done.stdout.split()[0], "--json").stdout)
    assert batch["expires_at"] == batch["deadline_at"]
    assert 0 < batch["deadline_at"] - batch["created_at"] <= 25 * 3600
    refused = run(server, "submit", str(source), "--by", "7 o'clock")
    assert (refused.returncode, refused.stderr.count("\n")) == (exits.USAGE, 1)
    assert "--by" in refused.stderr
    assert "07:00" in refused.stderr


def test_status_explains_one_batch(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line("a", "hello")])
    batch_id = run(server, "submit", str(source), "--wait", "--output", str(tmp_path)).stdout.split()[0]
    done = run(server, "status", batch_id, "--explain")
    assert done.returncode == exits.OK, done.stderr
    assert "It has ended: completed." in done.stdout
    assert json.loads(run(server, "status", batch_id, "--explain", "--json").stdout)["code"] == "completed"
    assert run(server, "status", "--explain").returncode == exits.USAGE


def test_models_are_listed_with_what_they_are(server: ServerProcess) -> None:
    assert "sim" in run(server, "models").stdout
    [model] = json.loads(run(server, "models", "--json").stdout)
    assert (model["id"], model["owned_by"]) == ("sim", "nightbatch")


def test_doctor_sees_that_a_server_is_ready(server: ServerProcess, tmp_path: Path) -> None:
    done = run(server, "doctor", "--json", "--url", server.url, "--config", str(server.folder / "nightbatch.toml"))
    assert {"level": "ok", "name": "server", "says": f"{server.url} is ready", "todo": ""} in json.loads(done.stdout)


def test_ctrl_c_while_waiting_leaves_the_batch_running(tmp_path: Path) -> None:
    """With a slow engine, so that the batch is still running when the wait is interrupted."""
    import signal

    slow = ServerProcess(tmp_path / "slow", config=simulated(time_scale=1.0)).start()
    try:
        source = written(tmp_path, [chat_line(f"c{number}", "hello", max_tokens=200) for number in range(200)])
        settings = {**os.environ, "NIGHTBATCH_URL": slow.url}
        with subprocess.Popen(
            [str(COMMAND), "submit", str(source), "--wait"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=settings,
            cwd=tmp_path,
            # A shell that runs the tests in the background ignores SIGINT for them and all they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads here)
        ) as waiting:
            assert waiting.stdout is not None
            batch_id = waiting.stdout.readline().split()[0]
            waiting.send_signal(signal.SIGINT)
            _, said = waiting.communicate(timeout=30)
        assert waiting.returncode == exits.INTERRUPTED
        assert f"{batch_id} goes on without us" in said
        assert f"nightbatch status {batch_id}" in said
        assert json.loads(run(slow, "status", batch_id, "--json").stdout)["status"] in {"validating", "in_progress"}
        assert "has not ended" in run(slow, "results", batch_id).stderr
        assert "cancelling" in run(slow, "cancel", batch_id).stdout
    finally:
        slow.stop()


def test_the_demo_brings_every_request_back_exactly_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(COMMAND), "demo", "--simulated"], capture_output=True, text=True, cwd=tmp_path, timeout=200, check=False
    )
    assert done.returncode == exits.OK, done.stderr
    assert "all 240 custom_ids came back, each exactly once" in done.stderr
    assert "all 160 custom_ids came back, each exactly once" in done.stderr
    assert len(list((tmp_path / "demo-results").rglob("batch_*_output.jsonl"))) == 2


def test_a_batch_is_paused_and_resumed_by_command(server: ServerProcess, tmp_path: Path) -> None:
    source = written(tmp_path, [chat_line(f"c{number}", "hello") for number in range(5)])
    batch_id = run(server, "submit", str(source), "--wait", "--output", str(tmp_path)).stdout.split()[0]
    refused = run(server, "pause", batch_id)
    assert refused.returncode == exits.USAGE
    assert f"Cannot pause batch {batch_id}: its status is 'completed'" in refused.stderr
    again = run(server, "submit", str(source)).stdout.split()[0]
    paused = run(server, "pause", again)
    if paused.returncode == exits.OK:  # else it had ended already
        assert f"{again} paused" in paused.stdout
        assert f"nightbatch resume {again}" in paused.stdout
        assert run(server, "resume", again).returncode == exits.OK
    done = run(server, "status", again, "--json")
    assert json.loads(done.stdout)["status"] in {"in_progress", "validating", "finalizing", "completed"}


def test_a_file_with_broken_lines_says_so_at_upload_and_runs_the_rest_when_asked(
    server: ServerProcess, tmp_path: Path
) -> None:
    source = written(tmp_path, [chat_line("a", "hello"), b"{", chat_line("b", "hello")])
    refused = run(server, "submit", str(source), "--wait", "--output", str(tmp_path))
    assert refused.returncode == exits.BATCH_FAILED
    assert "in.jsonl: 1 lines are broken" in refused.stderr
    assert "to run the others all the same: --on-invalid-line report" in refused.stderr
    done = run(server, "submit", str(source), "--wait", "--output", str(tmp_path), "--on-invalid-line", "report")
    assert done.returncode == exits.SOME_FAILED, done.stderr
    assert "2 of 3 lines succeeded, 1 failed" in done.stdout
    wrong = run(server, "submit", str(source), "--on-invalid-line", "maybe")
    assert wrong.returncode == exits.USAGE
    assert "'maybe' is not one of 'fail', 'report'" in wrong.stderr


def test_a_dry_run_prints_answers_and_a_projection_and_submits_nothing_else(
    server: ServerProcess, tmp_path: Path
) -> None:
    source = written(tmp_path, [chat_line(f"c{number}", "word " * (number % 7)) for number in range(300)])
    before = len(json.loads(run(server, "status", "--json", "--limit", "1000").stdout))
    done = run(server, "submit", str(source), "--dry-run", "5", "--metadata", "team=a")
    assert done.returncode == exits.OK, done.stderr
    assert "line 31 (c30): " in done.stdout
    assert done.stdout.count(" tokens in, ") == 6  # each line, and the summary
    assert "5 of 5 lines succeeded" in done.stdout
    assert "projection for the whole file, 300 lines (95 % intervals from 5 of them)" in done.stdout
    assert "0 of 5 failed here" in done.stdout
    listed = json.loads(run(server, "status", "--json", "--limit", "1000").stdout)
    assert len(listed) == before + 1
    assert listed[0]["metadata"] == {"team": "a", "nightbatch_dry_run": "5 of 300 lines"}
    again = run(server, "submit", str(source), "--dry-run", "5")
    assert [line for line in again.stdout.splitlines() if line.startswith("line ")] == [
        line for line in done.stdout.splitlines() if line.startswith("line ")
    ]


def test_a_dry_run_names_failing_lines_by_their_number_in_the_file(server: ServerProcess, tmp_path: Path) -> None:
    lines = [chat_line(f"c{number}", "hello") for number in range(9)]
    lines[4] = chat_line("bad", "far too long " * 5_000)
    done = run(server, "submit", str(written(tmp_path, lines)), "--dry-run", "3")
    assert done.returncode == exits.SOME_FAILED, done.stderr
    assert "line 5 (bad): failed, 400" in done.stdout
    lines[4] = b"{broken"
    done = run(server, "submit", str(written(tmp_path, lines)), "--dry-run", "3")
    assert done.returncode == exits.BATCH_FAILED
    assert "line 5: invalid_json_line" in done.stdout
    assert "projection" not in done.stdout

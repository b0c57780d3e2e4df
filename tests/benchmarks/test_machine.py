from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks import machine

CPUINFO = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC  9R14\nprocessor\t: 1\nmodel name\t: other\n"
)


def test_the_processor_is_named_by_its_first_entry() -> None:
    assert machine.cpu_model(CPUINFO) == "AMD EPYC 9R14"


def test_a_processor_without_a_name_is_unknown() -> None:
    assert machine.cpu_model("processor : 0\nBogoMIPS : 50\n") == "unknown"
    assert machine.cpu_model("") == "unknown"


def test_the_system_is_named_by_its_release_file() -> None:
    assert (
        machine.os_name('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == "Debian GNU/Linux 12 (bookworm)"
    )
    assert machine.os_name("") == "unknown"


def test_this_machine_has_cores_and_memory() -> None:
    facts = machine.machine()
    assert int(str(facts["cores"])) >= 1
    assert float(str(facts["memory_gib"])) > 0


def test_versions_name_what_is_installed_only() -> None:
    found = machine.versions()
    assert found["nightbatch"]
    assert all(found.values())


def test_a_checkout_has_a_commit_and_says_when_files_differ_from_it(tmp_path: Path) -> None:
    inside = tmp_path / "benchmarks"
    inside.mkdir()
    assert machine.commit(inside) is None
    file = tmp_path / "file"
    file.write_text("one")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for arguments in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = machine.commit(inside)
    assert clean is not None
    assert len(clean) == 40
    file.write_text("two")
    assert machine.commit(inside) == f"{clean}+changes"

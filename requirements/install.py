"""Makes a virtual environment and installs the locked packages and this project into it, saying what each step took.

    python3 requirements/install.py .venv cpu        everything, vLLM on the CPU included (Python 3.11 to 3.13)
    python3 requirements/install.py .venvs/x base    no torch and no vLLM: server, command, remote and simulated engines

Runs on the standard library of the interpreter that the environment is made from. A second run with nothing changed
reads one stamp and ends. Torch goes alone and first: its CPU build comes from PyTorch's own index, and an extra index
for every package would cost minutes where that index is slow or out of reach.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON_MIN = (3, 11)
LOG_LINES_SHOWN = 25

LEFT_OUT = {
    "cpu": {
        # Their builds on PyPI do not load beside the CPU build of torch; only image, audio and video models need them.
        "torchvision",
        "torchaudio",
        "torchcodec",
        # Only xgrammar asks for it, and its CPU path runs without.
        "triton",
        # The packages that carry the embedded models name programs that load them; vLLM loads them here.
        "llama-cpp-python",
        "llm",
        "sentence-transformers",
    },
    "base": set(),
}
NOT_INSTALLED = re.compile(r"^\S+ \S+ requires (\S+), which is not installed\.$")


class InstallError(Exception):
    pass


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2 or arguments[1] not in LEFT_OUT:
        print(__doc__, file=sys.stderr)
        return 2
    venv, kind = Path(arguments[0]), arguments[1]
    try:
        install(venv, kind)
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    return 0


def install(venv: Path, kind: str) -> None:
    if sys.version_info < PYTHON_MIN:
        raise InstallError(f"Python {sys.version.split()[0]} is too old: Nightbatch needs 3.11 or newer")
    stamp = venv / f"nightbatch-{kind}.stamp"
    wanted = fingerprint(kind)
    if stamp.exists() and stamp.read_text() == wanted:
        stamp.touch()
        return
    started = time.monotonic()
    print(f"installing into {venv} ({kind}, Python {sys.version.split()[0]})", flush=True)
    make_venv(venv)
    pip = Pip(venv)
    if kind == "cpu":
        install_torch(pip)
    packages = len((HERE / f"{kind}.txt").read_text().split())
    pip.step(f"{packages} packages of requirements/{kind}.txt", "install", "--no-deps", "-r", str(HERE / f"{kind}.txt"))
    pip.step("nightbatch itself", "install", "--no-deps", "--no-build-isolation", "-e", str(PROJECT))
    check(pip, kind)
    stamp.write_text(wanted)
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)


def fingerprint(kind: str) -> str:
    digest = hashlib.sha256(f"{sys.version} {PROJECT}".encode())
    for path in (HERE / f"{kind}.txt", HERE / "torch.txt", PROJECT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv(venv: Path) -> None:
    if (venv / "bin" / "python").exists():
        return
    with Step("virtual environment"):
        made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
        if made.returncode:
            hint = "on Debian and Ubuntu: apt install python3-venv"
            raise InstallError(f"{sys.executable} -m venv failed ({hint})\n{made.stdout}{made.stderr}")


def install_torch(pip: "Pip") -> None:
    """From wherever pip is configured to look (a mirror, a folder of wheels), else from PyTorch's own index."""
    arguments = ("install", "--no-deps", "-r", str(HERE / "torch.txt"))
    try:
        pip.step("torch for CPU, from the configured index", *arguments, failure="not there")
    except InstallError:
        pip.step("torch for CPU, from PyTorch's index", *arguments, "--index-url", TORCH_INDEX)


def check(pip: "Pip", kind: str) -> None:
    """`pip check` must miss exactly what the lock leaves out: anything else means that the lock is wrong."""
    with Step("check"):
        says = pip.run("check").stdout
        if not is_expected(says, LEFT_OUT[kind]):
            left_out = ", ".join(sorted(LEFT_OUT[kind])) or "nothing"
            raise InstallError(f"pip check should miss exactly {left_out}, and says:\n{says}")


def is_expected(says: str, left_out: Collection[str]) -> bool:
    lines = [line for line in says.splitlines() if line != "No broken requirements found."]
    missing = [match[1] for line in lines if (match := NOT_INSTALLED.match(line))]
    return len(missing) == len(lines) and set(missing) == set(left_out)


class Step:
    """One line of progress: what is being done, and at its end how long it took."""

    def __init__(self, name: str, failure: str = "failed") -> None:
        self.name = name
        self.failure = failure
        self.started = time.monotonic()

    def __enter__(self) -> None:
        print(f"  {self.name:<60}", end="", flush=True)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        taken = f"{time.monotonic() - self.started:6.1f} s"
        print(taken if error is None else f"{taken}  {self.failure}", flush=True)


class Pip:
    def __init__(self, venv: Path) -> None:
        self.python = venv / "bin" / "python"
        self.log = venv / "install.log"

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        environment = os.environ | {"PIP_NO_INPUT": "1", "PIP_REQUIRE_VIRTUALENV": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
        return done

    def step(self, name: str, *arguments: str, failure: str = "failed") -> None:
        with Step(name, failure):
            done = self.run(*arguments, "--quiet")
            if done.returncode:
                tail = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_LINES_SHOWN:])
                raise InstallError(f"pip {arguments[0]} failed ({self.log} has all of it):\n{tail}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

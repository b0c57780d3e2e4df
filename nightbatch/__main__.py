"""The console script and `python -m nightbatch`."""

from __future__ import annotations

from nightbatch.cli import run


def main() -> None:
    raise SystemExit(run())


if __name__ == "__main__":
    main()

"""The embedded chat model as a folder that any vLLM can load."""

from __future__ import annotations


def embedded_chat_model() -> str:
    raise NotImplementedError

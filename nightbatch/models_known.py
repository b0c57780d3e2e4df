"""What is known of the models of a configuration or a server without starting anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine import embedded
from engine.protocol import ModelInfo
from engine.simulated import PROFILES
from engine.tokens import context_of
from engine.vllm import source
from nightbatch.config import Config, ModelConfig
from nightbatch.inspection.served import Served, named_model

if TYPE_CHECKING:
    from openai.types import Model

    from nightbatch.client import Client

ASKED_NAMES_MAX = 100
"""Names that a server is asked for one by one: a file may hold a thousand."""

_FLAG = "--max-model-len"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)")
_UNITS = {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}


def of_config(config: Config, origin: str) -> Served:
    """An upstream that may serve any name makes the models unknown: only the server itself can say."""
    aliases = config.names
    if any(model.engine == "remote" and model.id is None for model in config.served):
        return Served(None, aliases, {}, f"{origin} (its upstreams say themselves what they serve: ask with --url)")
    models, sources = [], {}
    for model in config.served:
        info, where = _of_model(model)
        models.append(info)
        if where is not None:
            sources[info.id] = where
    return Served(models, aliases, sources, origin)


def of_server(models: Sequence[Model], origin: str) -> Served:
    """The server's own list, as far as it says more than names."""
    infos = []
    for model in models:
        more = model.model_extra or {}
        context, kind, endpoints = more.get("max_model_len"), more.get("kind"), more.get("endpoints")
        infos.append(
            named_model(
                model.id,
                kind if isinstance(kind, str) else None,
                endpoints=[str(one) for one in endpoints] if isinstance(endpoints, list) else (),
                context_tokens_max=context if isinstance(context, int) else None,
            )
        )
    embedded_here = {info.id: info.id for info in infos if embedded.find(info.id) is not None}
    return Served(infos, {}, embedded_here, origin)


def of_asked_server(client: Client) -> tuple[Callable[[Sequence[str]], Served], dict[str, str]]:
    """What a server serves, for the names that a file has, and where tokenizers are. Its list has no aliases: it is
    asked for every name that is not in it."""
    from nightbatch.client import ClientError

    served = of_server(client.models(), client.target.url)

    def ask(names: Sequence[str]) -> Served:
        aliases = {}
        for name in [name for name in names if name not in served.by_id][:ASKED_NAMES_MAX]:
            try:
                aliases[name] = client.model(name).id
            except ClientError as error:
                if error.unreachable:
                    raise
        return served.with_aliases(aliases)

    return ask, dict(served.sources)


def of_names(names: Sequence[str]) -> Served:
    """Models named one by one: ids, folders, embedded models."""
    found = [_of_model(ModelConfig(id=name)) for name in names]
    return Served([info for info, _ in found], {}, {info.id: where for info, where in found if where}, "--model")


def _of_model(model: ModelConfig) -> tuple[ModelInfo, str | None]:
    """What the model is, and where its tokenizer is, if that is on this machine."""
    name = str(model.name)
    if model.engine == "remote":
        return named_model(name, model.kind), None
    if model.engine == "simulated":
        profile = PROFILES.get(model.profile or "")
        context = profile.context_tokens_max if profile else None
        return named_model(name, model.kind or "generate", context_tokens_max=context), None
    try:
        found = source.inspect(model.weights)
    except source.SourceError:
        found = None
    known = embedded.find(model.weights)
    kind = model.kind or (known.kind.value if known else None)
    if kind is None and found is not None and found.config is not None:
        kind = source.kind_of(found.config).value
    context = _asked_context(model) or context_of(found.folder if found else None)
    where = known.id if known else str(found.folder) if found and found.folder else None
    return named_model(name, kind, context_tokens_max=context), where


def _asked_context(model: ModelConfig) -> int | None:
    """`max_model_len` as it is given to vLLM, in either form."""
    args: Mapping[str, object] = model.engine_args
    value = args.get("max_model_len", args.get("max-model-len"))
    for place, flag in enumerate(model.engine_flags):
        name, _, given = flag.partition("=")
        if name.replace("_", "-") == _FLAG:
            value = given or next(iter(model.engine_flags[place + 1 : place + 2]), None)
    matched = _SIZE.fullmatch(str(value)) if value is not None else None
    return int(float(matched[1]) * _UNITS[matched[2]]) if matched else None

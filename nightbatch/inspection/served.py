"""Which models a batch input is held to: those of a configuration, of a running server, or named one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.protocol import GENERATE_ENDPOINTS, POOLING_ENDPOINTS, ModelInfo, ModelKind
from store.records import PinnedModel

UNKNOWN_REVISION = "not known here"


@dataclass(frozen=True, slots=True)
class Served:
    """`models` None: nobody knows, so names are not checked. `sources` says where a model's weights and tokenizer are:
    a folder, a Hugging Face id or the id of an embedded model. `origin` is for people."""

    models: Sequence[ModelInfo] | None
    aliases: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    @property
    def by_id(self) -> dict[str, ModelInfo]:
        return {model.id: model for model in self.models or ()}

    def resolve(self, name: str) -> ModelInfo | None:
        """As `engine.registry.Registry.resolve`: an id wins over an alias."""
        known = self.by_id
        return known.get(name) or known.get(self.aliases.get(name, name))

    def pinned(self, names: Sequence[str]) -> dict[str, PinnedModel]:
        """What each name would be pinned to if a batch were created now; names that nothing serves are left out."""
        found = ((name, self.resolve(name)) for name in names)
        return {name: PinnedModel(info.id, info.revision) for name, info in found if info is not None}

    def for_names(self, names: Sequence[str]) -> Served:
        """Where nobody knows what is served, every name is taken to be a model of any kind."""
        return self if self.models is not None else Served([named_model(name) for name in names], {}, self.sources)

    def with_aliases(self, more: Mapping[str, str]) -> Served:
        return Served(self.models, {**self.aliases, **more}, self.sources, self.origin)


def named_model(
    name: str, kind: str | None = None, *, endpoints: Sequence[str] = (), context_tokens_max: int | None = None
) -> ModelInfo:
    """A model of which little is known: without a kind it is taken to serve every endpoint."""
    by_kind = {"generate": GENERATE_ENDPOINTS, "pooling": POOLING_ENDPOINTS}
    found = by_kind.get(kind or "", GENERATE_ENDPOINTS | POOLING_ENDPOINTS)
    return ModelInfo(
        id=name,
        revision=UNKNOWN_REVISION,
        kind=ModelKind.POOLING if kind == "pooling" else ModelKind.GENERATE,
        endpoints=frozenset(endpoints) or found,
        context_tokens_max=context_tokens_max,
        created_at=0,
    )

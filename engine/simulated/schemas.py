"""An instance of a JSON schema, chosen by a given random source: what constrained decoding would have made of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from engine.simulated.text import words

_DEPTH_MAX = 16
_OPTIONAL_DEPTH_MAX = 4
_ITEMS_DEFAULT = 2
_UNSUPPORTED = ("pattern", "not", "if", "patternProperties", "multipleOf", "dependentSchemas", "contains")
_FORMATS = {
    "date": "2026-01-31",
    "time": "08:30:00Z",
    "date-time": "2026-01-31T08:30:00Z",
    "email": "ann@example.org",
    "uuid": "6f1c2f9e-7c55-4d0f-9b43-0d6f3a1f2b11",
    "uri": "https://example.org/",
    "ipv4": "192.0.2.1",
}

Schema = Mapping[str, Any]


class UnsupportedSchema(ValueError):
    """A keyword that the simulation cannot satisfy; the message names it."""


def instance(schema: Any, chance: random.Random) -> Any:
    """A value that validates against `schema`. Every property is filled in, as small models tend to do."""
    return _Maker(schema if isinstance(schema, Mapping) else {}, chance).make(schema, 0)


class _Maker:
    def __init__(self, root: Schema, chance: random.Random) -> None:
        self._root = root
        self._chance = chance

    def make(self, schema: Any, depth: int) -> Any:
        if depth > _DEPTH_MAX:
            raise UnsupportedSchema(f"the JSON schema nests deeper than {_DEPTH_MAX} levels")
        if not isinstance(schema, Mapping):
            if schema is False:
                raise UnsupportedSchema("the JSON schema `false` has no instance")
            return "".join(words(self._chance, 1))
        schema = self._resolve(schema)
        for keyword in _UNSUPPORTED:
            if keyword in schema:
                raise UnsupportedSchema(f"the JSON schema keyword '{keyword}' is not supported by the simulated engine")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._chance.choice(list(schema["enum"]))
        for keyword in ("anyOf", "oneOf"):
            if schema.get(keyword):
                rest = {name: value for name, value in schema.items() if name != keyword}
                return self.make({**rest, **self._resolve(self._simplest(schema[keyword], depth))}, depth + 1)
        return self._of_type(_type_of(schema), schema, depth)

    def _simplest(self, options: Sequence[Any], depth: int) -> Any:
        """Any option at first; deep down one without a reference, so that recursive schemas end."""
        flat = [option for option in options if "$ref" not in option]
        return self._chance.choice(flat if depth > _OPTIONAL_DEPTH_MAX and flat else list(options))

    def _resolve(self, schema: Schema) -> Schema:
        hops = 0
        while "$ref" in schema:
            hops += 1
            if hops > _DEPTH_MAX:
                raise UnsupportedSchema("the JSON schema's $ref goes in a circle")
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = {**self._look_up(str(schema["$ref"])), **rest}
        for part in schema.get("allOf", ()):
            schema = _merged(schema, self._resolve(part))
        return schema

    def _look_up(self, reference: str) -> Schema:
        found: Any = self._root
        if not reference.startswith("#"):
            raise UnsupportedSchema(f"the JSON schema refers to '{reference}', which is not inside it")
        for step in reference.lstrip("#").strip("/").split("/"):
            if not step:
                continue
            if not isinstance(found, Mapping) or step not in found:
                raise UnsupportedSchema(f"the JSON schema refers to '{reference}', which is not there")
            found = found[step]
        if not isinstance(found, Mapping):
            raise UnsupportedSchema(f"the JSON schema refers to '{reference}', which is not a schema")
        return found

    def _of_type(self, kind: str, schema: Schema, depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._chance.random() < 0.5
            case "null":
                return None
            case "string":
                return self._string(schema)
            case _:
                raise UnsupportedSchema(f"the JSON schema type '{kind}' is not known")

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        made = {
            name: self.make(part, depth + 1)
            for name, part in schema.get("properties", {}).items()
            if name in required or depth <= _OPTIONAL_DEPTH_MAX
        }
        extra = schema.get("additionalProperties", True)
        for name in sorted(required - made.keys()):
            made[name] = self.make(extra, depth + 1)
        return made

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        made = [self.make(part, depth + 1) for part in schema.get("prefixItems", ())]
        least = int(schema.get("minItems", 0))
        wanted = max(least, _ITEMS_DEFAULT if depth <= _OPTIONAL_DEPTH_MAX else 0)
        wanted = min(wanted, int(schema.get("maxItems", wanted)))
        items = schema.get("items", True)
        while len(made) < wanted and items is not False:
            made.append(self.make(items, depth + 1))
        if schema.get("uniqueItems"):
            made = [item for position, item in enumerate(made) if item not in made[:position]]
        return made

    def _integer(self, schema: Schema) -> int:
        low, high = _bounds(schema, step=1)
        return self._chance.randint(int(-(-low // 1)), int(high // 1))

    def _number(self, schema: Schema) -> float:
        low, high = _bounds(schema, step=1e-3)
        return min(max(round(self._chance.uniform(low, high), 3), low), high)

    def _string(self, schema: Schema) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = "".join(words(self._chance, 2))
        least = int(schema.get("minLength", 0))
        while len(text) < least:
            text += "".join([" ", *words(self._chance, 2)])
        return text[: int(schema.get("maxLength", max(len(text), 1)))]


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        named = [name for name in kind if name != "null"]
        return str(named[0]) if named else "null"
    if isinstance(kind, str):
        return kind
    for keyword, implied in (("properties", "object"), ("required", "object"), ("items", "array")):
        if keyword in schema:
            return implied
    return "string"


def _bounds(schema: Schema, *, step: float) -> tuple[float, float]:
    low = schema.get("minimum")
    high = schema.get("maximum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + step
    if high is None and "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - step
    if low is None:
        low = 0 if high is None else min(0, high - 100)
    return (low, high if high is not None else max(low + 100, 100))


def _merged(left: Schema, right: Schema) -> Schema:
    merged = {**left, **right}
    merged.pop("allOf", None)
    if "properties" in left and "properties" in right:
        merged["properties"] = {**left["properties"], **right["properties"]}
    if "required" in left and "required" in right:
        merged["required"] = [*left["required"], *right["required"]]
    return merged

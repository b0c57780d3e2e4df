"""docs/api.md and the application are held to each other: routes, fields, error codes, and the tests that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.api_document import CODE, PROJECT, names, rows, sections
from tests.support.document import METHODS, document, operations

ROUTE = re.compile(r"`([A-Z]+) (/[^`]*)`")
TEST = re.compile(r"`(test_\w+)`")

ANSWERS_OF_ALL = frozenset({"200", "401", "500"})

SHAPES = {  # the heading that lists the fields of a schema; schemas inside one are written with dots
    "FileObject": "File",
    "BatchObject": "Batch",
    "ModelObject": "Model",
    "ErrorEnvelope": "Error",
}
"""Headings that are not the schema's own name."""
INNER_OF_OPERATIONS = frozenset({"Alive", "Readiness", "EngineReport", "EngineState"})
"""Answers for machines that watch the server; docs/operations.md has them."""


def compare(documented: set[str], real: set[str], what: str) -> None:
    assert not real - documented, f"docs/api.md leaves out of {what}: {sorted(real - documented)}"
    assert not documented - real, f"docs/api.md has in {what} what is not there: {sorted(documented - real)}"


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    documented = {f"{method} {path}" for cells in sections()["Routes"] for method, path in ROUTE.findall(cells[0])}
    compare(documented, {f"{method} {path}" for method, path in operations()}, "the routes")


def test_every_status_of_a_route_is_in_the_document() -> None:
    for cells in sections()["Routes"]:
        [(method, path)] = ROUTE.findall(cells[0])
        answers = set(document()["paths"][path][method.lower()]["responses"]) - ANSWERS_OF_ALL
        compare(set(re.findall(r"\d{3}", cells[2])), answers, f"the answers of {method} {path}")


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without its references and its `null` alternative."""
    variants = [variant for variant in schema.get("anyOf", []) if variant.get("type") != "null"]
    if len(variants) == 1:
        return resolved(variants[0])
    if "$ref" in schema:
        return resolved(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    return schema


def fields(schema: Mapping[str, Any], shapes: frozenset[str], prefix: str = "") -> Iterator[str]:
    """The fields of an object, those of inner objects with dots; what has a heading of its own is not gone into."""
    for name, inner in resolved(schema).get("properties", {}).items():
        yield prefix + name
        items = resolved(inner).get("items", inner)
        own = {variant.get("$ref", "").rpartition("/")[2] for variant in [items, *items.get("anyOf", [])]}
        if not own & shapes:
            yield from fields(items, shapes, f"{prefix}{name}.")


def answer_schemas() -> set[str]:
    """The names of the schemas that stand directly under an answer."""
    found: set[str] = set()
    for item in document()["paths"].values():
        for method in METHODS:
            for answer in item.get(method, {}).get("responses", {}).values():
                for content in answer.get("content", {}).values():
                    schema = content.get("schema", {})
                    found |= {one.get("$ref", "").rpartition("/")[2] for one in [schema, *schema.get("anyOf", [])]}
    return found - {""} - INNER_OF_OPERATIONS


@pytest.mark.parametrize("schema", sorted(answer_schemas()))
def test_every_field_of_an_answer_is_in_the_document(schema: str) -> None:
    heading = SHAPES.get(schema, schema)
    assert heading in sections(), f"docs/api.md has no table under a heading '{heading}'"
    shapes = frozenset(answer_schemas())
    compare(names(heading), set(fields(document()["components"]["schemas"][schema], shapes)), heading)


def request_fields(method: str, path: str) -> set[str]:
    """Query parameters, headers and body fields; not what the path itself shows."""
    operation = document()["paths"][path][method.lower()]
    found = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] != "path"}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        found |= set(fields(content["schema"], frozenset()))
    return found


REQUESTS = [(method, path) for method, path in operations() if request_fields(method, path)]


@pytest.mark.parametrize(("method", "path"), REQUESTS, ids=lambda value: value.strip("/"))
def test_every_field_of_a_request_is_in_the_document(method: str, path: str) -> None:
    route = f"{method} {path}"
    headings = [heading for heading in sections() if route in CODE.findall(heading)]
    assert headings, f"docs/api.md has no table under a heading with `{route}`"
    compare({name for heading in headings for name in names(heading)}, request_fields(method, path), route)


def error_codes() -> set[str]:
    """Every `code` that our own source can put into an error, of an answer, of a line or of a result."""
    found: set[str] = set()
    for package in ("server", "scheduler", "store", "engine"):
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found |= codes_of(node)
    return found


def is_code(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value == "code"


def codes_of(node: ast.AST) -> set[str]:
    values: list[ast.expr | None] = []
    if isinstance(node, ast.Call):
        values += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        if getattr(node.func, "attr", getattr(node.func, "id", "")) == "LineError":
            values += node.args[:1]
    elif isinstance(node, ast.Dict):
        values += [value for key, value in zip(node.keys, node.values, strict=True) if is_code(key)]
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        assigned = node.targets if isinstance(node, ast.Assign) else [node.target]
        targets = [target.id for target in assigned if isinstance(target, ast.Name)]
        values += [node.value for target in targets if target == "code" or target.endswith("_CODE")]
        if isinstance(node.value, ast.Tuple) and any(target.endswith("_CODES") for target in targets):
            values += node.value.elts
    constants = [value.value for value in values if isinstance(value, ast.Constant)]
    return {value for value in constants if value and isinstance(value, str)}


def test_every_error_code_is_in_the_document() -> None:
    documented = names("Errors of an answer") | names("Errors of a line") | names("Errors of a result")
    compare(documented, error_codes(), "the error codes")


def known_tests() -> set[str]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (PROJECT / "tests").rglob("test_*.py"))
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_row_names_a_test_that_exists() -> None:
    known = known_tests()
    nameless = [f"{heading}: {cells[0]}" for heading, cells in rows() if not TEST.findall(cells[-1])]
    assert not nameless, "rows of docs/api.md without a test in their last column:\n" + "\n".join(nameless)
    missing = sorted({name for _, cells in rows() for name in TEST.findall(cells[-1])} - known)
    assert not missing, f"docs/api.md names tests that are not there: {missing}"

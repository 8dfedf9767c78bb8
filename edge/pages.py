"""The page at /docs: the OpenAPI and AsyncAPI documents, for people.

One self-contained HTML page: it loads nothing, so it reads the same without a network, and its Content-Security-Policy
allows exactly the style and the script that stand in it.
"""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, TypeAlias

Json: TypeAlias = Mapping[str, Any]
"""Part of a document that this process made itself from its own descriptors."""

_SCHEMA = "#/components/schemas/"
_LIMITS = (
    ("minimum", "from {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "to {}"),
    ("exclusiveMaximum", "less than {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("pattern", "matches {}"),
)
_TYPE_RANGE = {-(2**31), 2**31 - 1, 0, 2**32 - 1}


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page and the headers that keep it in its bounds."""

    html: bytes
    headers: Mapping[str, str]


def docs_page(openapi: Json, asyncapi: Json) -> Page:
    """The reference of everything that a client can do."""
    style = files("edge").joinpath("docs.css").read_text("utf-8")
    script = files("edge").joinpath("docs.js").read_text("utf-8")
    operations = list(_operations(openapi))
    frames = list(_frames(asyncapi))
    schemas = {**asyncapi["components"]["schemas"], **openapi["components"]["schemas"]}
    html = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hither: the API</title><style>{style}</style></head><body>
<a class="skip" href="#start">Skip to the content</a>
<nav aria-label="Contents"><span class="name">Hither</span><span class="version">{
        escape(openapi["info"]["version"])
    }</span>
<input type="search" placeholder="Filter  ( / )" aria-label="Filter the reference"><div id="count" role="status"></div>
{_contents(operations, frames, schemas)}</nav>
<main id="start"><h1>Hither: the API</h1>
<p class="lead">{
        escape(openapi["info"]["summary"])
    } One contract, two doors: REST under <code>/api/v1</code> and a WebSocket
at <code>/ws</code>. For programs: <a href="/api/v1/openapi.json">OpenAPI 3.1</a> and
<a href="/api/v1/asyncapi.json">AsyncAPI 3.0</a>.</p>
<p class="lead">{_words(openapi["info"]["description"])}</p>
<p class="lead">{_words(asyncapi["info"]["description"])}</p>
{
        "".join(
            _section(tag["name"], tag["description"], [item for item in operations if item.group == tag["name"]])
            for tag in openapi["tags"]
        )
    }
{
        _section(
            "WebSocket: clients send",
            "Each frame is one JSON object.",
            [item for item in frames if item.group == "Clients send"],
        )
    }
{
        _section(
            "WebSocket: the server sends",
            "Answers, events and what concerns the connection.",
            [item for item in frames if item.group == "The server sends"],
        )
    }
{
        _section(
            "Messages and values",
            "What operations and frames are made of.",
            [_schema_item(name, schemas[name]) for name in sorted(schemas)],
        )
    }
</main><script>{script}</script></body></html>"""
    return Page(html.encode(), _headers(style, script))


@dataclass(frozen=True, slots=True)
class _Item:
    """One entry: its anchor, where it stands, how the contents name it, and its HTML."""

    anchor: str
    group: str
    badge: str
    badge_class: str
    name: str
    html: str


def _headers(style: str, script: str) -> dict[str, str]:
    def allowed(source: str) -> str:
        return f"'sha256-{b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; style-src {allowed(style)}; script-src {allowed(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


def _operations(openapi: Json) -> Iterator[_Item]:
    for path, methods in openapi["paths"].items():
        for verb, operation in methods.items():
            yield _Item(
                anchor=operation["operationId"],
                group=operation["tags"][0],
                badge=verb.upper(),
                badge_class=verb,
                name=operation["operationId"],
                html=_operation(path, verb, operation),
            )


def _operation(path: str, verb: str, operation: Json) -> str:
    tags = ["public" if not operation["security"] else "signed in"]
    if "x-hither-frame" in operation:
        tags.append(
            f'<a href="#client.{escape(operation["x-hither-frame"])}">frame {escape(operation["x-hither-frame"])}</a>'
        )
    parts = [
        _head(verb.upper(), verb, f'<span class="path">{escape(path)}</span>', tags),
        f"<p>{_words(operation['summary'] + ' ' + operation.get('description', ''))}</p>",
    ]
    if parameters := operation.get("parameters"):
        rows = [
            _row(item["name"], item["schema"], item["description"], item["in"], item["required"]) for item in parameters
        ]
        parts.append(f"<h4>Parameters</h4>{_table(rows)}")
    if "requestBody" in operation:
        parts.append(f"<h4>Body</h4>{_fields(operation['requestBody']['content']['application/json']['schema'])}")
    parts.append(
        f"<h4>Answer</h4><p>{_type(operation['responses']['200']['content']['application/json']['schema'])}</p>"
    )
    failures = [
        f"<tr><th>{status}</th><td>{escape(answer['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
        if status != "200"
    ]
    parts.append(f"<details><summary>Errors</summary>{_table(failures)}</details>")
    return "".join(parts)


def _frames(asyncapi: Json) -> Iterator[_Item]:
    operations = asyncapi["operations"]
    for key, message in asyncapi["components"]["messages"].items():
        sent = key.startswith("client.")
        answers = operations[f"receive.{message['name']}"]["reply"]["messages"] if sent else []
        yield _Item(
            anchor=key,
            group="Clients send" if sent else "The server sends",
            badge="→" if sent else "←",
            badge_class="sends" if sent else "gets",
            name=message["name"],
            html=_frame(message, sent, answers),
        )


def _frame(message: Json, sent: bool, answers: Sequence[Json]) -> str:
    label, kind = ("send", "sends") if sent else ("get", "gets")
    parts = [
        _head(label, kind, f'<span class="path">{escape(message["name"])}</span>', []),
        f"<p>{_words(message['summary'])}</p>",
        _fields(message["payload"]),
    ]
    if answers:
        keys = [answer["$ref"].rpartition("/")[2] for answer in answers]
        links = ", ".join(f'<a href="#{escape(key)}">{escape(key.partition(".")[2])}</a>' for key in keys)
        parts.append(f"<h4>Answered with</h4><p>{links}</p>")
    return "".join(parts)


def _schema_item(name: str, schema: Json) -> _Item:
    words = f"<p>{_words(schema.get('description', ''))}</p>" if schema.get("description") else ""
    html = f'<h3><span class="path">{escape(name)}</span></h3>{words}{_fields(schema)}'
    return _Item(f"schema.{name}", "Messages and values", "", "", name, html)


def _head(badge: str, kind: str, title: str, tags: Sequence[str]) -> str:
    marks = "".join(f"<span>{tag}</span>" for tag in tags)
    return f'<h3><span class="verb {kind}">{badge}</span>{title}<span class="tags">{marks}</span></h3>'


def _fields(schema: Json) -> str:
    if "properties" not in schema:
        return f"<p>{_type(schema)}</p>"
    required = schema.get("required", [])
    rows = [
        _row(name, inner, inner.get("description", ""), "", name in required)
        for name, inner in schema["properties"].items()
    ]
    return _table(rows) if rows else "<p>No fields.</p>"


def _row(name: str, schema: Json, words: str, place: str, required: bool) -> str:
    need = '<span class="need">needed</span>' if required else ""
    where = f" in the {place}" if place else ""
    said = _words(words) or "&nbsp;"
    return f'<tr><th><code>{escape(name)}</code>{need}</th><td class="type">{_type(schema)}{where}</td><td>{said}</td></tr>'


def _table(rows: Sequence[str]) -> str:
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _type(schema: Json) -> str:
    """What a value is, in a few words; escaped."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMA)
        return f'<a href="#schema.{escape(name)}">{escape(name)}</a>'
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if choices := schema.get("oneOf", schema.get("anyOf")):
        return "one of " + ", ".join(_type(choice) for choice in choices)
    if "enum" in schema:
        return "one of " + ", ".join(f"<code>{escape(str(choice))}</code>" for choice in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}{_limits(schema)}"
    kind = schema.get("type", "any value")
    form = schema.get("format", schema.get("contentEncoding", ""))
    return escape(f"{kind} ({form})" if form else kind) + _limits(schema)


def _limits(schema: Json) -> str:
    said = [
        words.format(f"<code>{escape(str(schema[key]))}</code>" if key == "pattern" else schema[key])
        for key, words in _LIMITS
        if key in schema and (key == "pattern" or schema[key] not in _TYPE_RANGE or key in ("minLength", "minItems"))
    ]
    return "".join(f", {part}" for part in said)


def _words(text: str) -> str:
    """Prose; what stands in backquotes is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _section(title: str, words: str, items: Sequence[_Item]) -> str:
    articles = "".join(f'<article id="{escape(item.anchor)}">{item.html}</article>' for item in items)
    return f'<section><h2>{escape(title)}</h2><p class="lead">{_words(words)}</p>{articles}</section>'


def _contents(operations: Sequence[_Item], frames: Sequence[_Item], schemas: Mapping[str, Json]) -> str:
    groups: dict[str, list[_Item]] = {}
    for item in (*operations, *frames, *(_schema_item(name, schemas[name]) for name in sorted(schemas))):
        groups.setdefault(item.group, []).append(item)
    return "".join(
        f'<div class="group"><h2>{escape(group)}</h2><ul>{_links(items)}</ul></div>' for group, items in groups.items()
    )


def _links(items: Sequence[_Item]) -> str:
    def badge(item: _Item) -> str:
        return f'<span class="verb {item.badge_class}">{item.badge}</span>' if item.badge else ""

    return "".join(f'<li><a href="#{escape(item.anchor)}">{badge(item)}{escape(item.name)}</a></li>' for item in items)

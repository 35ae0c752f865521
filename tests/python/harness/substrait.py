"""Substrait plans as DataFusion's Python package makes them of SQL, over tables of which it has but the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from datafusion import SessionConfig, SessionContext
from datafusion.substrait import Plan, Serde

from harness.raw import length_delimited

# Field numbers of Plan, PlanRel, RelRoot, Rel and FilterRel.
_RELATIONS, _ROOT, _ROOT_INPUT, _FILTER, _FILTER_INPUT = 3, 2, 1, 2, 2


def session(tables: Mapping[str, pa.Schema], schema: str = "public") -> SessionContext:
    """A session with these tables, all of them empty; `schema` is where they are, in a catalog of our name."""
    config = SessionConfig().with_default_catalog_and_schema("jetbridge", schema)
    # The server's SQL takes VARCHAR for plain text; what a cast gives is said in the plan.
    context = SessionContext(config.set("datafusion.sql_parser.map_string_types_to_utf8view", "false"))
    for name, columns in tables.items():
        empty = pa.record_batch([pa.array([], field.type) for field in columns], schema=columns)
        context.register_record_batches(name, [[empty]])
    return context


def plan(sql: str, tables: Mapping[str, pa.Schema], schema: str = "public") -> bytes:
    """The plan of a query over such tables."""
    return Serde.serialize_bytes(sql, session(tables, schema))


def written(relation: dict[str, Any], **more: Any) -> bytes:
    """A plan of one relation, written out as JSON."""
    return Plan.from_json(json.dumps({"relations": [{"root": {"input": relation}}], **more})).encode()


def read(names: list[str], columns: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """The relation that reads a table; the columns with their types as Substrait has them, all nullable."""
    types = [{kind: {"nullability": "NULLABILITY_NULLABLE"}} for kind in columns.values()]
    struct = {"types": types, "nullability": "NULLABILITY_REQUIRED"}
    return {"read": {"namedTable": {"names": names}, "baseSchema": {"names": list(columns), "struct": struct}, **more}}


def nested(levels: int) -> bytes:
    """A plan of so many filters within one another, which no writer of JSON would make."""
    relation = b""
    for _ in range(levels):
        relation = length_delimited(_FILTER, length_delimited(_FILTER_INPUT, relation))
    return length_delimited(_RELATIONS, length_delimited(_ROOT, length_delimited(_ROOT_INPUT, relation)))

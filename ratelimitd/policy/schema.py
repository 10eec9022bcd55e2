"""The JSON Schema of both forms, for editors and other tools. It accepts every policy that parse() accepts.

It accepts a little more: what depends on two places, such as a cost and a capacity, only parse() sees.
"""

import json
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ratelimitd.policy.document import FlatPolicy, PolicyDocument


class _Schema(GenerateJsonSchema):
    """Without titles, which only repeat names, and without null, which a policy never holds."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """The schema of what is there when it is not left out."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """None stands for `left out`, so it is no default to tell."""
        found = super().default_schema(schema)
        if found.get("default", ...) is None:
            del found["default"]
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's hook
        """Never."""
        return False


def schema() -> dict[str, Any]:
    """The schema, in draft 2020-12."""
    made = TypeAdapter(FlatPolicy | PolicyDocument).json_schema(schema_generator=_Schema)
    for part in made["$defs"].values():
        part.pop("title", None)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "A policy of ratelimitd",
        "description": "Six numbers (the flat form), or tiers, routes and overrides (the full form).",
    } | made


def schema_text() -> str:
    """The schema as it is printed and committed."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"

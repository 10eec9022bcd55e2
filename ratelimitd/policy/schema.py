"""The JSON Schema of both forms of a policy, for editors. It accepts every policy that `parse` accepts.

It accepts a little more: only `parse` checks what depends on two places, such as a cost and a capacity.
"""

import json
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ratelimitd.policy.flat_form import Policy


class _Schema(GenerateJsonSchema):
    """Omits titles, which only repeat names, and null, which no policy holds."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Returns the schema of the value when it is given."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Omits the default None, which means that the field is not given."""
        found = super().default_schema(schema)
        if found.get("default", ...) is None:
            del found["default"]
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's hook
        """Returns False, whatever the field is."""
        return False


def schema() -> dict[str, Any]:
    """Returns the schema, in draft 2020-12."""
    made = TypeAdapter(Policy).json_schema(schema_generator=_Schema)
    for part in made["$defs"].values():
        part.pop("title", None)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "A policy of ratelimitd",
        "description": "Six numbers (the flat form), or tiers, routes and overrides (the full form).",
    } | made


def schema_text() -> str:
    """Returns the schema as text, as it is printed and committed."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"

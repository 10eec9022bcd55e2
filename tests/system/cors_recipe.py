"""The CORS policy that envoy.yaml holds as a comment."""

import re
from typing import Any

import yaml

from ratelimitd.resources import resource
from tests.system.changed_front import Config, virtual_host

ORIGIN = "https://app.example.com"
"""The origin in the comment."""


def cors_recipe() -> Any:
    """Returns the field of the virtual host, without the comment signs."""
    shipped = resource("envoy/envoy.yaml").read_text()
    found = re.search(r"^( +)# typed_per_filter_config:\n(?:\1#   .*\n)+", shipped, re.MULTILINE)
    assert found is not None
    return yaml.safe_load(found[0].replace(f"{found[1]}# ", ""))


def allow_scripts_of(origin: str) -> Any:
    """Returns a change that adds the recipe to the virtual host, with another origin."""

    def change(config: Config) -> None:
        recipe = cors_recipe()
        policy = recipe["typed_per_filter_config"]["envoy.filters.http.cors"]
        assert policy["allow_origin_string_match"] == [{"exact": ORIGIN}]
        policy["allow_origin_string_match"] = [{"exact": origin}]
        virtual_host(config).update(recipe)

    return change

"""Compares the documents with the code."""

import ast
import re
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from ratelimitd import __version__
from ratelimitd.admin.api import ROUTERS
from ratelimitd.core.client_address import charged_as
from ratelimitd.demo.show import EXAMPLE_LIMITS
from ratelimitd.settings import Settings, env_name

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()


def test_the_readme_has_at_most_250_lines() -> None:
    assert len(README.splitlines()) <= 250


def rows_of_settings(document: str) -> list[tuple[str, str, str]]:
    """Returns name, default and meaning of the settings in a document."""
    return re.findall(r"^\| `(RATELIMITD_\w+)` \| (?:`(.*)`)? \| (.*) \|$", document, re.MULTILINE)


def test_the_tables_of_settings_equal_the_settings() -> None:
    rows = rows_of_settings(SETTINGS)
    assert rows == [
        (env_name(name), str(getattr(field.default, "value", field.default)), field.description)
        for name, field in Settings.model_fields.items()
    ]
    important = rows_of_settings(README)
    assert important
    assert [row for row in important if row not in rows] == []


def test_the_changelog_begins_with_the_version_of_the_package_and_a_date() -> None:
    versions = re.findall(
        r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert versions[0] == __version__


def test_readme_compose_and_demo_have_the_same_example_limits() -> None:
    assert EXAMPLE_LIMITS in README
    assert EXAMPLE_LIMITS in (ROOT / "docker-compose.yml").read_text()


def test_the_makefile_has_at_most_ten_targets_with_a_help_text_each() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets is not None
    names = targets[1].split()
    assert len(names) <= 10
    assert [name for name in names if not re.search(rf"^{name}:.*## \w", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "document",
    [
        str(path.relative_to(ROOT))
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/adr/*.md"))
    ],
)
def test_links_and_named_files_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    folder = (ROOT / document).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    files = re.findall(r"`((?:tests|lua|docs|envoy|proto)/[\w./-]+\.\w+)`", text)
    assert [link for link in links if not (folder / link).exists()] == []
    assert [file for file in files if not (ROOT / file).exists()] == []
    sections = re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", text)
    assert [at for at in sections if at[1] not in anchors(folder / at[0] if at[0] else ROOT / document)] == []


def anchors(document: Path) -> set[str]:
    """Returns the anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_operations_lists_each_log_event_with_its_level() -> None:
    """The section `Log events` of docs/operations.md."""
    _, section = (ROOT / "docs/operations.md").read_text().split("\n## Log events\n")
    documented = {
        (event, row[1])
        for row in re.findall(r"^\| (`\w+`[^|]*) \| (info|warning|error) \|", section, re.MULTILINE)
        for event in re.findall(r"`(\w+)`", row[0])
    }
    assert documented == {event for path in (ROOT / "ratelimitd").rglob("*.py") for event in log_events(path)}


LEVELS = {"debug", "info", "warning", "error", "exception"}

LOGGER = re.compile(r"(^|\W)_?(\w+_)?log$|get_logger\(")
"""An expression that is a logger, a BoundedLog or a FailureLog, by the names that the code gives to them."""

WITHOUT_A_LITERAL = {"bounded_log.py", "follower.py"}
"""Modules that pass on the names of events. The follower gives them to `_logging_failures`."""


def log_events(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the name and the level of each event that a module logs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called, receiver = node.func.attr, ast.unparse(node.func.value)
            level = called.removeprefix("a")
            event = node.args[0] if node.args else None
            if called == "_logging_failures" and isinstance(event, ast.Constant):
                yield str(event.value), "warning"
            elif level in LEVELS and LOGGER.search(receiver):
                if isinstance(event, ast.Constant):
                    yield str(event.value), "error" if level == "exception" else level
                else:
                    assert path.name in WITHOUT_A_LITERAL, f"{path}:{node.lineno}: the event is not a literal"


def test_every_logger_has_a_name_by_which_its_events_are_found() -> None:
    for path in (ROOT / "ratelimitd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and re.match(
                r"structlog\.get_logger\(|(Bounded|Failure)Log\(", ast.unparse(node.value)
            ):
                for target in node.targets:
                    assert LOGGER.search(ast.unparse(target)), f"{path}:{node.lineno}"


def test_operations_says_what_each_ipv6_address_is_charged_as() -> None:
    section = (
        (ROOT / "docs/operations.md").read_text().partition("### IPv4 inside IPv6")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| (`.*`) \| .* \| (.*) \|$", section, re.MULTILINE)
    for addresses, charged in rows:
        for address in re.findall("`(.+?)`", addresses):
            text = charged_as(IPv6Address(address))
            kind = (
                "its /64" if text.endswith("/64") else "the whole address" if text == address else f"`{text}`"
            )
            assert charged.startswith(kind), address
    assert len(rows) == 10


def test_the_table_of_the_admin_api_lists_all_operations() -> None:
    rows = re.findall(
        r"^\| `([A-Z]+) (/admin/api/v1/\S+)` \|", (ROOT / "docs" / "admin.md").read_text(), re.MULTILINE
    )
    routes = [route for router in ROUTERS for route in router.routes]
    assert sorted(rows) == sorted(
        (method, f"/admin/api{route.path}")
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    )


@pytest.mark.parametrize("document", ["architecture", "development"])
def test_named_modules_and_their_parts_exist(document: str) -> None:
    """`PATH.py` is a file, and `PATH.py:NAME` a class, function or value in it."""
    for path, name in re.findall(
        r"`([\w/]+\.py)(?::(\w+))?`", (ROOT / "docs" / f"{document}.md").read_text()
    ):
        file = next((file for file in (ROOT / "ratelimitd" / path, ROOT / path) if file.exists()), None)
        assert file is not None, path
        assert re.search(rf"^(class |(async )?def )?{name}\b", file.read_text(), re.MULTILINE), (path, name)


def test_the_glossary_has_each_term_once_in_alphabetical_order() -> None:
    terms = re.findall(r"^\*\*(.+?)\*\*:", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert terms == sorted(set(terms))


def test_adrs_are_numbered_without_a_gap_and_have_the_same_sections() -> None:
    adrs = sorted(ROOT.glob("docs/adr/*.md"))
    assert [path.name[:4] for path in adrs] == [f"{n:04}" for n in range(1, len(adrs) + 1)]
    for path in adrs:
        for part in ("## Context", "## Decision", "## Alternatives", "## Consequences"):
            assert part in path.read_text(), (path.name, part)


def test_the_settings_page_names_the_variables_that_compose_takes_from_the_environment() -> None:
    sentence = re.search(r"^Compose takes (.*?) from your environment", SETTINGS, re.MULTILINE | re.DOTALL)
    assert sentence is not None
    compose = (ROOT / "docker-compose.yml").read_text()
    taken = set(re.findall(r"\$\{(\w+)", compose))
    of_opentelemetry = {name for name in taken if name.startswith("OTEL_")}
    assert set(re.findall(r"\w*RATELIMITD_\w+", sentence[1])) == taken - of_opentelemetry
    assert ("four variables of OpenTelemetry" in " ".join(sentence[1].split())) == (
        len(of_opentelemetry) == 4
    )

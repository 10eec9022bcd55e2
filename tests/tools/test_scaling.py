"""Tests that docs/scaling.md follows from the figures that it names."""

import re
from pathlib import Path

import pytest

from bench.scaling import CLUSTER, FAST, FULL, GRPCIO, SINGLE, SMALL, Part, costs_table, sizes_table
from bench.table import Table

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "scaling.md").read_text()
RUN = (ROOT / "bench" / "results" / "2026-11-24.md").read_text()
SERVICE, STORE = 5, 7
"""The columns of the run with the CPU of the service and of the store."""


@pytest.mark.parametrize("table", [costs_table(), sizes_table()], ids=lambda table: table.title)
def test_the_tables_are_in_the_docs(table: Table) -> None:
    for row in table.rows:
        assert f"| {' | '.join(row)} |" in DOCS


@pytest.mark.parametrize(
    ("part", "target", "concurrency", "column"),
    [
        (FAST, "fast", "4 x 32", SERVICE),
        (GRPCIO, "grpcio", "4 x 32", SERVICE),
        (FULL, "fast", "4 x 32", STORE),
        (SMALL, "fast", "8", STORE),
        (SINGLE, "fast", "1", STORE),
    ],
)
def test_the_figures_are_of_the_published_run(part: Part, target: str, concurrency: str, column: int) -> None:
    start = f"| many users, allowed | {concurrency} | {target} | 0% |"
    (line, *_) = [line for line in RUN.splitlines() if line.startswith(start)]
    assert line.split("|")[1:][column].split()[0] == str(part.us)


def test_the_figure_of_a_cluster_is_measured() -> None:
    adr = (ROOT / "docs" / "adr" / "0032-our-link-to-each-node.md").read_text()
    (measured,) = re.findall(r"all nodes together 28\.2, 28\.6 and ([\d.]+),", adr)
    assert round(float(measured)) == CLUSTER.us

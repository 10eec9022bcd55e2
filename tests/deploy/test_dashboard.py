"""Checks the Grafana dashboard against its generator and the model of Grafana."""

import json
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboard import OUTPUT, generated

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads(OUTPUT.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_file_is_what_the_generator_writes() -> None:
    assert OUTPUT.read_text() == generated(), "run .venv/bin/python -m deploy.grafana.dashboard"


def test_the_model_of_grafana_reads_every_field_of_the_file() -> None:
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    for link in read["links"]:
        del link["placement"]
    assert read == DASHBOARD


def test_panels_have_unique_ids_a_description_a_source_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (grid["x"] + x, grid["y"] + y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["w"])
        for y in range(grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        ref_ids = [target["refId"] for target in panel["targets"]]
        assert len(set(ref_ids)) == len(ref_ids)


def test_lines_have_a_legend_and_numbers_turn_red_only_where_that_is_meant() -> None:
    kinds = {kind: [panel for panel in PANELS if panel["type"] == kind] for kind in ("timeseries", "stat")}
    for panel in kinds["timeseries"]:
        assert panel["options"]["legend"]["showLegend"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
    red = {
        panel["title"]
        for panel in kinds["stat"]
        if any(step["color"] == "red" for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"])
    }
    assert red == {"Undecided", "Global bucket", "Replicas"}


def test_every_query_uses_defined_variables_only_and_aggregates_over_replicas() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for panel in PANELS:
        for target in panel["targets"]:
            expr = target["expr"]
            used = {part.split('"')[0] for part in expr.split('=~"$')[1:]}
            assert used
            assert used <= variables, expr
            assert any(word in expr for word in ("sum", "max", "min", "count")), expr
            assert "[$__rate_interval]" in expr or "[" not in expr, expr


def test_grafana_loads_the_dashboard_from_where_compose_mounts_it() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.observability.yml").read_text())
    mounts = {
        target: source.removeprefix("./")
        for source, target, *_ in (volume.split(":") for volume in compose["services"]["grafana"]["volumes"])
    }
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    assert mounts["/etc/grafana/provisioning"] == str(provisioning.relative_to(ROOT))
    provider = yaml.safe_load((provisioning / "dashboards" / "ratelimitd.yml").read_text())["providers"][0]
    assert ROOT / mounts[provider["options"]["path"]] == OUTPUT.parent
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    scrape_interval = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrape_interval["scrape_interval"]

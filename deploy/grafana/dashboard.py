"""The dashboard: its variables, its annotations, and the rows of panels. Run this module after a change."""

import json
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
)

from deploy.grafana.panels import SOURCE
from deploy.grafana.queries import REPLICAS
from deploy.grafana.rows import ROWS, overview

OUTPUT = Path(__file__).parent / "dashboards" / "ratelimitd.json"

PANEL = "http://127.0.0.1:9090/admin"
"""The panel's address with compose."""


def _variable(name: str, label: str, values: str) -> QueryVariable:
    """Returns a variable with the values of a label, all of which are selected at first."""
    chosen = QueryVariable(name).label(label).datasource(SOURCE)
    chosen.query({"query": f"label_values({values})", "refId": name}).definition(f"label_values({values})")
    chosen.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(multi=True).include_all(include_all=True)
    return chosen.all_value(".*").current(VariableOption(selected=True, text=["All"], value=["$__all"]))


def _revisions() -> AnnotationQuery:
    """Marks the minute after the first replica ran a new policy."""
    revision = f'count_values("revision", ratelimitd_policy_revision{{{REPLICAS}}}'
    expr = f"{revision}) unless {revision} offset 1m)"
    annotation = AnnotationQuery().name("Policy revisions").datasource(SOURCE).enable(enable=True)
    annotation.icon_color("blue").title_format("Policy revision {{revision}}").expr(expr).step("15s")
    return annotation.target(Dataquery().expr(expr).ref_id("Anno"))


def _link() -> DashboardLink:
    link = DashboardLink("Panel").type(DashboardLinkType.LINK).url("${panel}").icon("external link")
    return link.tooltip("Limits and policy, in the panel of ratelimitd").target_blank(target_blank=True)


def dashboard() -> Dashboard:
    """Returns the dashboard."""
    board = Dashboard("ratelimitd").uid("ratelimitd").tags(["ratelimitd"]).timezone("browser")
    board.description("Decisions, store, policy and replicas of ratelimitd.")
    board.time("now-1h", "now").refresh("10s").tooltip(DashboardCursorSync.CROSSHAIR)
    board.annotation(_revisions()).link(_link())
    board.with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board.with_variable(_variable("job", "Job", "ratelimitd_in_flight, job"))
    board.with_variable(_variable("instance", "Replica", 'ratelimitd_in_flight{job=~"$job"}, instance'))
    board.with_variable(_variable("api", "API", 'ratelimitd_decisions_total{job=~"$job"}, api'))
    board.with_variable(_variable("admin", "Job of the admin service", "ratelimitd_store_up, job"))
    board.with_variable(TextBoxVariable("panel").label("Address of the panel").default_value(PANEL))
    ids = count(1)
    for panel in overview():
        board.with_panel(panel.id(next(ids)))
    for title, panels in ROWS.items():
        board.with_row(Row(title).id(next(ids)))
        for panel in panels():
            board.with_panel(panel.id(next(ids)))
    return board


def generated() -> str:
    """Returns the text of the dashboard's file."""
    fields = json.loads(JSONEncoder().encode(dashboard().build()))
    for link in fields["links"]:
        del link["placement"]  # the builder always puts links into a menu
    return json.dumps(fields, sort_keys=True, indent=2) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(generated())

"""Builds panels. `queries` has the expressions by the names of their series in the legend."""

from collections.abc import Mapping
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, heatmap, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef, StackingMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel


def _target(expr: str, legend: str = "", ref_id: str = "A") -> Dataquery:
    return Dataquery().ref_id(ref_id).expr(expr).legend_format(legend).range().datasource(SOURCE)


def number(
    title: str,
    unit: str,
    description: str,
    expr: str,
    *,
    red_below: float | None = None,
    red_from: float | None = None,
) -> stat.Panel:
    """Returns a panel that shows the newest value, in green or red."""
    steps = [Threshold(value=None, color="green")]
    if red_below is not None:
        steps = [Threshold(value=None, color="red"), Threshold(value=red_below, color="green")]
    if red_from is not None:
        steps.append(Threshold(value=red_from, color="red"))
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE)
    # Without steps, Grafana shows every value from 80 in red.
    panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.span(4).height(4).with_target(_target(expr))


def lines(
    title: str,
    unit: str,
    description: str,
    queries: Mapping[str, str],
    *,
    width: int = 12,
    stacked: bool = False,
) -> timeseries.Panel:
    """Returns a panel with a line per series; `width` is a part of 24."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).min(0)
    panel.datasource(SOURCE).span(width).height(8)
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    panel.legend(common.VizLegendOptions().show_legend(show_legend=True))  # the builder hides it otherwise
    if stacked:
        panel.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for ref_id, (legend, expr) in zip(ascii_uppercase, queries.items(), strict=False):
        panel.with_target(_target(expr, legend, ref_id))
    return panel


def distribution(title: str, unit: str, description: str, expr: str) -> heatmap.Panel:
    """Returns a heatmap of a histogram, whose series have the label `le`."""
    panel = heatmap.Panel().title(title).description(description).datasource(SOURCE).span(12).height(8)
    panel.calculate(calculate=False).y_axis(heatmap.YAxisConfig().unit(unit))
    return panel.with_target(_target(expr, "{{le}}").format(PromQueryFormat.HEATMAP))


def values(title: str, description: str, columns: Mapping[str, str]) -> table.Panel:
    """Returns a table of the newest values: a row per label set, and a column per expression."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE).span(12).height(8)
    names = {}
    for ref_id, (name, expr) in zip(ascii_uppercase, columns.items(), strict=False):
        panel.with_target(_target(expr, ref_id=ref_id).instant().format(PromQueryFormat.TABLE))
        names[f"Value #{ref_id}"] = name
    fields = {"excludeByName": {"Time": True}, "renameByName": names}
    return panel.with_transformation(DataTransformerConfig("merge", options={})).with_transformation(
        DataTransformerConfig("organize", options=fields)
    )

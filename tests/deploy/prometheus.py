"""Asks a running Prometheus."""

import math
import time
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Prometheus:
    """The HTTP API of Prometheus."""

    http: httpx.AsyncClient

    async def ready(self) -> bool:
        """Returns whether it answers queries."""
        try:
            return (await self.http.get("/-/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def up(self, job: str) -> set[str]:
        """Returns the targets of a job that were scraped without an error, as HOST:PORT."""
        targets = (await self._get("/api/v1/targets", state="active"))["activeTargets"]
        return {
            target["labels"]["instance"]
            for target in targets
            if (target["labels"]["job"], target["health"]) == (job, "up")
        }

    async def loaded_alerts(self) -> set[str]:
        """Returns the names of the alerts whose rules were evaluated without an error."""
        groups = (await self._get("/api/v1/rules", type="alert"))["groups"]
        return {rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "ok"}

    async def value(self, expr: str) -> float:
        """Returns the only value of an expression; NaN without one."""
        result = (await self._get("/api/v1/query", query=expr))["result"]
        return float(result[0]["value"][1]) if result else math.nan

    async def values(self, expr: str) -> list[float]:
        """Returns all values other than NaN that an expression had within the last ten minutes."""
        now_s = time.time()
        span = {"start": str(now_s - 600), "end": str(now_s), "step": "500ms"}
        series = (await self._get("/api/v1/query_range", query=expr, **span))["result"]
        values = [float(value) for one in series for _, value in one["values"]]
        return [value for value in values if not math.isnan(value)]

    async def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        reply = await self.http.get(path, params=parameters)
        assert reply.status_code == httpx.codes.OK, (parameters, reply.text)
        return dict(reply.json()["data"])

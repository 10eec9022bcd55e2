"""Runs every query of the dashboard and of the rules on a real Prometheus that scrapes three replicas.

The replicas go through what the queries show: load, denials, shadow, a change of the policy, an invalid
policy, and an outage of the store.
"""

import asyncio
import json
import math
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from redis.asyncio import Redis

from deploy.grafana.dashboard import OUTPUT
from ratelimitd.demo.stack import Stack, running_stack
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from tests.deploy.prometheus import Prometheus
from tests.eventually import eventually
from tests.example_limits import KEY
from tests.redis_server import redis_server
from tests.required_programs import need

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("prometheus")]

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"

REPLICAS = 3

POLICY = """
tiers:
  global: {{ capacity: 1000, refill_rate: 100 }}
  user: {{ capacity: {capacity}, refill_rate: 1 }}
  user_api: {{ capacity: 1, refill_rate: 1, shadow: true }}
routes:
  - {{ path: /api/local, on_store_error: local }}
"""

WINDOW = "5s"
"""The range of rates. `$__rate_interval` stands for it, and it replaces the minutes of the rules."""


def dashboard_queries() -> list[str]:
    """Returns the queries as Grafana sends them, when all values of all variables are selected."""
    board = json.loads(OUTPUT.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    expressions += [annotation["expr"] for annotation in board["annotations"]["list"]]
    return [
        re.sub(r'=~"\$\w+"', '=~".*"', expr.replace("$__rate_interval", WINDOW)).replace(
            "offset 1m", "offset 3s"
        )
        for expr in expressions
    ]


def evaluated_often(folder: Path) -> Path:
    """Writes the rules without the interval of their group, so that they follow the configuration."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())
    del groups["groups"][0]["interval"]
    file = folder / "rules.yml"
    file.write_text(yaml.safe_dump(groups))
    return file


def rules() -> list[dict[str, Any]]:
    """Returns the rules as Prometheus loads them."""
    (group,) = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return list(group["rules"])


def selectors(expr: str) -> list[str]:
    """Returns the series that an expression of a rule reads."""
    return re.findall(r"\b(?:(?:ratelimitd|job:ratelimitd)\w*(?::\w+)?|up)(?:\{[^}]*\})?", expr)


def configuration(stack: Stack, rules: Path) -> str:
    """Returns the configuration of compose, with the addresses of these replicas and shorter intervals."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(rules)]
    replicas, admin = config["scrape_configs"]
    del replicas["dns_sd_configs"]
    replicas["static_configs"] = [{"targets": [str(address) for address in stack.metrics]}]
    admin["static_configs"] = [{"targets": [str(stack.panel)]}]
    return yaml.safe_dump(config)


@asynccontextmanager
async def prometheus_for(stack: Stack) -> AsyncIterator[Prometheus]:
    """Runs Prometheus, which scrapes the replicas and the admin service of the stack."""
    address = f"{LOOPBACK}:{free_port()}"
    with TemporaryDirectory(prefix="ratelimitd-") as folder:
        config = Path(folder) / "prometheus.yml"
        config.write_text(configuration(stack, evaluated_often(Path(folder))))
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address={address}"]
        async with (
            child("prometheus", command, Path(folder) / "log", {"PATH": os.environ["PATH"]}) as process,
            httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=20) as http,
        ):
            prometheus = Prometheus(http)
            await process.until(prometheus.ready)
            yield prometheus


@dataclass(frozen=True)
class History:
    """Replicas whose metrics Prometheus has collected, and what became of them."""

    stack: Stack
    store: Redis
    prometheus: Prometheus
    client: httpx.AsyncClient

    async def load(self) -> None:
        """Sends requests of a few users until Prometheus has seen two rounds, since a rate needs two."""
        for _ in range(2):
            before = await self._decisions()
            users = [f"user{number}" for number in range(4) for _ in range(12)]
            paths = ["/api/ping", "/api/local"] * (len(users) // 2)
            calls = [
                self.client.get(path, headers={"X-User-Id": user})
                for path, user in zip(paths, users, strict=True)
            ]
            await asyncio.gather(*calls)
            # Half of them, because Envoy may answer some itself on a busy machine.
            await self.until(f"sum(ratelimitd_decisions_total) > {before + len(users) / 2}")

    async def _decisions(self) -> float:
        return await self.prometheus.value("sum(ratelimitd_decisions_total) or vector(0)")

    async def apply(self, text: str, until: str) -> None:
        """Writes the text of a policy to the store, and waits for its effect."""
        await self.store.set(KEY, text)
        await self.until(until)

    async def until(self, expr: str) -> None:
        """Waits until an expression has a value."""

        async def has_value() -> bool:
            return not math.isnan(await self.prometheus.value(expr))

        await eventually(has_value, expr)

    async def happen(self) -> None:
        """Lets everything happen that the queries show."""
        await self.until(
            f'sum(up{{job="ratelimitd"}}) == {REPLICAS} and sum(up{{job="ratelimitd-admin"}}) == 1'
        )
        for number, capacity in enumerate((5, 6), start=1):
            revision = f'min(ratelimitd_policy_revision{{job="ratelimitd"}}) == {number}'
            await self.apply(POLICY.format(capacity=capacity), revision)
            await self.load()
        # A rule is evaluated some time after the scrape that it needs, and the outage may end what it needs.
        await self.apply("{", 'ALERTS{alertname="RatelimitdPolicyRefused"}')
        await self.store.shutdown(nosave=True)
        await self.load()
        await self.until("ratelimitd_store_up == 0")
        await self.until('ALERTS{alertname="RatelimitdStoreAway"}')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history() -> AsyncIterator[History]:
    """Runs the system with Prometheus, and lets everything happen."""
    need("prometheus")
    async with (
        redis_server() as (address, store),
        running_stack(f"redis://{address}/0", replicas=REPLICAS, admin_key=secrets.token_hex(16)) as stack,
        prometheus_for(stack) as prometheus,
        httpx.AsyncClient(
            base_url=f"http://{stack.front}",
            limits=httpx.Limits(max_connections=12),
            trust_env=False,
            timeout=30,
        ) as client,
    ):
        history = History(stack, store, prometheus, client)
        await history.happen()
        yield history


async def test_each_query_of_the_dashboard_returned_data(history: History) -> None:
    queries = dashboard_queries()
    assert len(queries) > 30
    assert [expr for expr in queries if not await history.prometheus.values(expr)] == []


async def test_each_series_of_the_rules_existed(history: History) -> None:
    series = {selector for rule in rules() for selector in selectors(rule["expr"])}
    assert len(series) > 15
    assert [one for one in sorted(series) if not await history.prometheus.values(one)] == []


async def test_each_rule_was_evaluated(history: History) -> None:
    assert await history.prometheus.loaded_alerts() == {rule["alert"] for rule in rules() if "alert" in rule}
    for alert in ("RatelimitdStoreAway", "RatelimitdPolicyRefused"):
        assert await history.prometheus.values(f'ALERTS{{alertname="{alert}"}}'), alert

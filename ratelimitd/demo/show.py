"""The output of the demo: requests of two users, the buckets that they leave, and what to try next."""

import asyncio
import shlex

import httpx
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from ratelimitd.demo.stack import Stack
from ratelimitd.settings import CONFIG_KEY

EXAMPLE_LIMITS = (
    '{"global_capacity":10,"global_rate":1,"user_capacity":5,"user_rate":1,'
    '"user_api_capacity":3,"user_api_rate":1}'
)
API = "/api/*"
"""The route pattern that envoy.yaml attaches to requests of the backend's API."""
_CHECK_REQUEST = (
    '{"attributes":{"request":{"http":{"method":"GET","path":"/api/ping","headers":{"x-user-id":"user1"}}},'
    '"context_extensions":{"api":"/api/*"}}}'
)


async def show(stack: Stack, store: Redis, console: Console) -> None:
    """Sends requests through a running stack and prints the results."""
    limits = await store.get(CONFIG_KEY)
    console.print(f"Limits at {CONFIG_KEY}: {_text(limits)}\n", markup=False)
    async with httpx.AsyncClient(base_url=f"http://{stack.front}", trust_env=False) as client:
        await _send(client, console, "user1", 10)
        await _print_buckets(store, console, "user1")
        await _send(client, console, "user2", 2)
        await _print_buckets(store, console, "user2")


async def _send(client: httpx.AsyncClient, console: Console, user: str, count: int) -> None:
    requests = [client.get("/api/ping", headers={"X-User-Id": user}) for _ in range(count)]
    replies = [await reply for reply in asyncio.as_completed(requests)]
    table = Table(title=f"{count} requests at once to /api/ping as {user}", title_justify="left")
    for column in ("answer", "tier", "retry-after", "ratelimit (r: tokens left, t: s until full)"):
        table.add_column(column, no_wrap=True)
    for reply in sorted(replies, key=lambda reply: reply.status_code):
        fields = [reply.headers.get(name, "") for name in ("x-ratelimit-tier", "retry-after", "ratelimit")]
        table.add_row(f"{reply.status_code} {reply.reason_phrase}", *fields)
    console.print(table)
    for status in sorted({reply.status_code for reply in replies}):
        same = [reply for reply in replies if reply.status_code == status]
        console.print(f"{len(same)} x {status}: {same[0].text}", markup=False, highlight=False)
    console.print()


async def _print_buckets(store: Redis, console: Console, user: str) -> None:
    for key in ("rate:global", f"rate:user:{user}", f"rate:user:{user}:api:{API}"):
        console.print(f"> HGETALL {key}", markup=False, highlight=False)
        fields = await store.hgetall(key)
        for number, text in enumerate((part for pair in fields.items() for part in pair), start=1):
            console.print(f'{number}) "{_text(text)}"', markup=False, highlight=False)
    console.print()


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def dashboard(stack: Stack, admin_key: str) -> str:
    """Returns the address of the dashboard. The key is not part of it: browsers keep addresses."""
    return f"Dashboard: http://{stack.panel}/admin (key: {admin_key})\n"


def next_steps(stack: Stack, store_url: str, admin_key: str) -> str:
    """Returns commands to paste into another terminal, and the URL of the panel."""
    unix = store_url.partition("unix://")[2].partition("?")[0]
    redis_cli = shlex.join(["redis-cli", "-s", unix] if unix else ["redis-cli", "-u", store_url])
    check = "envoy.service.auth.v3.Authorization/Check"
    return "\n".join(
        (
            "Try it:",
            f"  curl -i -H 'X-User-Id: user1' http://{stack.front}/api/ping",
            f"  grpcurl -plaintext -d '{_CHECK_REQUEST}' {stack.replicas[0]} {check}",
            f"  {redis_cli} HGETALL 'rate:user:user1:api:{API}'",
            f"  {redis_cli} SET {CONFIG_KEY} '{EXAMPLE_LIMITS}'",
            f"  curl -H 'X-Admin-Key: {admin_key}' http://{stack.panel}/admin/api/v1/status",
            "",
            f"Show and change the limits: http://{stack.panel}/admin/limits (key: {admin_key})",
        )
    )

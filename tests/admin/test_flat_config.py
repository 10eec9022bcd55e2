"""/admin/config: flat policies, and what happens to the rest of a full one."""

import asyncio
import json

import httpx
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette

from ratelimitd.control.control import Control
from ratelimitd.rollout.expected import Expected
from tests.admin.conftest import READ_KEY, Connect
from tests.example_limits import EXAMPLE_LIMITS, KEY, limits_json

CONFIG = "/admin/config"
TIERS: dict[str, dict[str, object]] = {
    "global": {"capacity": 500, "refill_rate": 50},
    "user": {"capacity": 100, "rate": "300/min"},
    "user_api": {"capacity": 20, "refill_rate": 0.5},
}
NUMBERS = {
    "global_capacity": 500,
    "global_rate": 50,
    "user_capacity": 100,
    "user_rate": 5,
    "user_api_capacity": 20,
    "user_api_rate": 0.5,
}


async def apply(control: Control, **policy: object) -> None:
    """Puts a full policy in force."""
    await control.apply(json.dumps({"tiers": TIERS} | policy), author="test", note="", expected=None)


async def test_a_flat_policy_is_accepted_returned_and_stored(writer: httpx.AsyncClient, store: Redis) -> None:
    answer = await writer.post(CONFIG, content=limits_json(user_rate=0.25))
    assert answer.status_code == 200
    assert answer.text == json.dumps(EXAMPLE_LIMITS | {"user_rate": 0.25}, separators=(",", ":"))
    assert (await writer.get(CONFIG)).text == answer.text
    assert await store.get(KEY) == limits_json(user_rate=0.25).encode()


async def test_a_whole_number_with_an_exponent_is_stored_as_written_and_returned_as_an_integer(
    writer: httpx.AsyncClient, store: Redis
) -> None:
    text = limits_json(global_capacity=1000).replace("1000", "1e+03")
    answer = await writer.post(CONFIG, content=text)
    assert answer.text == json.dumps(EXAMPLE_LIMITS | {"global_capacity": 1000}, separators=(",", ":"))
    assert await store.get(KEY) == text.encode()


async def test_a_change_creates_a_revision(writer: httpx.AsyncClient, control: Control) -> None:
    await writer.post(CONFIG, content=limits_json())
    revision = (await control.current()).revision
    assert (revision.number, revision.author, revision.note) == (1, "admin", "POST /admin/config")


async def test_the_six_numbers_of_a_full_policy_are_returned(
    writer: httpx.AsyncClient, control: Control
) -> None:
    await apply(control, routes=[{"path": "/api/search", "cost": 2}])
    answer = await writer.get(CONFIG)
    assert (answer.status_code, answer.json()) == (200, NUMBERS)


async def test_a_policy_with_a_tier_that_is_off_is_409(writer: httpx.AsyncClient, control: Control) -> None:
    await apply(control, tiers=TIERS | {"global": "off"})
    answer = await writer.get(CONFIG)
    assert answer.status_code == 409
    assert (
        answer.json()["error"] == "a flat policy cannot express tiers.global: off; "
        "GET /admin/api/v1/policy returns the full policy"
    )


@pytest.mark.parametrize(
    ("policy", "dropped"),
    [
        ({"routes": [{"path": "/api/search", "cost": 2}]}, "routes"),
        ({"overrides": {"users": {"bob": {"blocked": True}}}}, "overrides.users"),
        ({"overrides": {"addresses": {"192.0.2.1": {"exempt": True}}}}, "overrides.addresses"),
        ({"overrides": {"headers": {"x-plan": {"gold": {"exempt": True}}}}}, "overrides.headers"),
        ({"overrides": {"context": {"plan": {"gold": {"exempt": True}}}}}, "overrides.context"),
        ({"shadow": True}, "shadow"),
        ({"tiers": TIERS | {"user": "off"}}, "tiers.user: off"),
        ({"tiers": TIERS | {"user": TIERS["user"] | {"shadow": True}}}, "tiers.user.shadow"),
        (
            {"tiers": TIERS | {"global": TIERS["global"] | {"on_store_error": "allow"}}},
            "tiers.global.on_store_error",
        ),
    ],
)
async def test_what_a_flat_policy_cannot_express_is_dropped_only_with_replace(
    writer: httpx.AsyncClient, control: Control, policy: dict[str, object], dropped: str
) -> None:
    await apply(control, **policy)
    answer = await writer.post(CONFIG, content=limits_json())
    assert answer.status_code == 409
    assert f"would drop {dropped} from" in answer.json()["error"]
    assert (await control.current()).revision.number == 1
    assert (await writer.post(f"{CONFIG}?replace=true", content=limits_json())).json() == EXAMPLE_LIMITS
    assert (await control.current()).revision.number == 2


async def test_a_full_policy_that_a_flat_one_can_express_is_replaced(
    writer: httpx.AsyncClient, control: Control
) -> None:
    await apply(control)
    assert (await writer.post(CONFIG, content=limits_json())).status_code == 200


async def test_a_policy_accepted_in_between_is_not_dropped(
    writer: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = control.apply

    async def meanwhile(text: str, *, author: str, note: str, expected: Expected | None) -> object:
        monkeypatch.undo()
        await apply(control, routes=[{"path": "/api/search", "exempt": True}])
        return await commit(text, author=author, note=note, expected=expected)

    monkeypatch.setattr(control, "apply", meanwhile)
    answer = await writer.post(CONFIG, content=limits_json())
    assert answer.status_code == 409
    assert "revision 1 by test" in answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"tiers": TIERS}),
        json.dumps({"tiers": "nonsense"}),
        json.dumps({"routes": []} | EXAMPLE_LIMITS),
    ],
)
async def test_a_full_policy_is_422_and_the_error_names_its_endpoint(
    writer: httpx.AsyncClient, content: str
) -> None:
    answer = await writer.post(CONFIG, content=content)
    assert answer.status_code == 422
    assert "PUT a full policy to /admin/api/v1/policy" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        ("", 400, "must be JSON"),
        ("{", 400, "must be JSON"),
        (b"\xff", 400, "must be JSON"),
        ("global_capacity: 1", 400, "must be JSON"),
        ("[" * 100_000, 400, "must be JSON"),
        ("[]", 422, "must be an object"),
        ("null", 422, "must be an object"),
        (limits_json(user_rate=None), 422, "user_rate: "),
        (limits_json(user_rate=-1), 422, "user_rate: "),
        (limits_json(user_capacity="5"), 422, "user_capacity: "),
        (limits_json(user_rate=float("nan")), 422, "user_rate: "),
        (limits_json(usr=1), 422, "usr: "),
    ],
)
async def test_an_invalid_body_is_refused_with_its_reason(
    writer: httpx.AsyncClient, control: Control, content: str | bytes, status: int, sentence: str
) -> None:
    answer = await writer.post(CONFIG, content=content)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    assert (await control.current()).revision.number == 0


async def test_the_content_type_of_curl_is_accepted(writer: httpx.AsyncClient) -> None:
    """`curl -d` declares its body as a form."""
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert (await writer.post(CONFIG, content=limits_json(), headers=kind)).status_code == 200


@pytest.mark.parametrize("key", [None, "wrong"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_valid_key_the_answer_is_401_with_these_bytes(
    app: Starlette, connect: Connect, method: str, key: str | None
) -> None:
    answer = await connect(app, key).request(method, CONFIG, content=limits_json())
    assert (answer.status_code, answer.content) == (401, b'{"error":"unauthorized"}')


async def test_a_read_only_key_may_get_but_not_post(app: Starlette, connect: Connect) -> None:
    reader = connect(app, READ_KEY)
    assert (await reader.get(CONFIG)).status_code == 200
    answer = await reader.post(CONFIG, content=limits_json())
    assert (answer.status_code, answer.json()["error"]) == (403, "this key is read-only")


async def test_each_concurrent_change_is_accepted_or_409(writer: httpx.AsyncClient, control: Control) -> None:
    answers = await asyncio.gather(
        *(writer.post(CONFIG, content=limits_json(user_rate=n)) for n in range(1, 6))
    )
    accepted = sum(answer.status_code == 200 for answer in answers)
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert (await control.current()).revision.number == accepted >= 1

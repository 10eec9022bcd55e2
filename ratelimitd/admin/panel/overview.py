"""What is in force, what runs where, what a request would get, and what somebody has left."""

from collections.abc import Sequence
from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.panel.endpoint import Call, Panel, sentence
from ratelimitd.admin.panel.form_fields import question_of, who_of
from ratelimitd.admin.panel.rendering import plural
from ratelimitd.admin.panel.tier_form import field_of, tier_fields
from ratelimitd.errors import Problem, RequestSpecError
from ratelimitd.policy.document import full_form
from ratelimitd.policy.text import parse
from ratelimitd.rollout.revision import Revision


async def overview(panel: Panel, call: Call) -> Response:
    """The limits in force."""
    return await limits_page(panel, call, None, ())


async def limits_page(
    panel: Panel, call: Call, base: Revision | None, problems: Sequence[Problem]
) -> Response:
    """The limits in force as a form; with a `base`, what was typed on top of it, and what is wrong."""
    status = await panel.control.status()
    shown = base or status.revision
    policy = parse(shown.text)
    return call.page(
        "overview.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK,
        now=status,
        shown=shown,
        policy=full_form(policy),
        fields=tier_fields(policy, call.sent if base else {}, problems),
        problems=[problem for problem in problems if field_of(problem) is None],
        wrong=bool(problems),
    )


async def replicas(panel: Panel, call: Call) -> Response:
    """Which replica runs which revision, and what the shadows would have denied."""
    now = await panel.control.status()
    shadow = sorted(now.shadow.items(), key=lambda item: (-item[1], item[0]))
    return call.page("replicas.html", now=now, shadow=shadow)


async def explain(panel: Panel, call: Call) -> Response:
    """What a request would get. It spends nothing, so it is a GET, and its address can be passed on."""
    explanation, wrong = None, ""
    if "path" in call.sent:
        try:
            explanation = await panel.control.explain(question_of(call.sent))
        except RequestSpecError as error:
            wrong = sentence(str(error))
    asked = {
        name: call.sent.get(name, "") for name in ("user", "address", "path", "method", "headers", "context")
    }
    return call.page(
        "explain.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK,
        asked=asked,
        explanation=explanation,
        wrong=wrong,
        identity_header=panel.settings.identity_header,
    )


async def buckets(panel: Panel, call: Call) -> Response:
    """What somebody has left."""
    found, wrong = None, ""
    asked = {name: call.sent.get(name, "") for name in ("user", "address")}
    if any(asked.values()):
        try:
            found = await panel.control.buckets(who_of(call.sent))
        except RequestSpecError as error:
            wrong = sentence(str(error))
    return call.page(
        "buckets.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK,
        asked=asked,
        found=found,
        wrong=wrong,
    )


async def ask_reset(panel: Panel, call: Call) -> Response:
    """Asks whether it is meant."""
    who = who_of(call.sent)
    found = await panel.control.buckets(who)
    return call.page("reset.html", who=who, found=found)


async def reset(panel: Panel, call: Call) -> Response:
    """Makes every bucket of somebody a full one."""
    who = who_of(call.sent)
    deleted = await panel.control.reset(who)
    name = who.user if who.user is not None else who.address
    return call.then("/admin/buckets", f"{plural(len(deleted), 'bucket')} of {name} full again.")

"""The page Limits: the policy in force, and the numbers of its tiers as a form."""

from collections.abc import Sequence
from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.panel.endpoint import Panel, PanelRequest
from ratelimitd.admin.panel.tier_form import field_of, tier_fields
from ratelimitd.errors import Problem
from ratelimitd.policy.flat_form import full_form
from ratelimitd.policy.text import parse
from ratelimitd.rollout.revision import Revision


async def limits(panel: Panel, request: PanelRequest) -> Response:
    """Shows the limits in force."""
    return await limits_page(panel, request, None, ())


async def limits_page(
    panel: Panel, request: PanelRequest, base: Revision | None, problems: Sequence[Problem]
) -> Response:
    """Shows the limits in force as a form; with a `base`, what was typed into it and the problems."""
    status = await panel.control.status()
    shown = base or status.revision
    policy = parse(shown.text)
    return request.render(
        "limits.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK,
        now=status,
        shown=shown,
        policy=full_form(policy),
        tiers=tier_fields(policy, request.fields if base else {}, problems),
        problems=[problem for problem in problems if field_of(problem) is None],
        invalid=bool(problems),
    )

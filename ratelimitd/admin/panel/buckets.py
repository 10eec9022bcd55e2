"""The page Buckets: the tokens that a user or an address has left, and their reset."""

from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.panel.endpoint import Panel, PanelRequest
from ratelimitd.admin.panel.form_fields import subject
from ratelimitd.admin.panel.rendering import sentence
from ratelimitd.display import plural
from ratelimitd.errors import RequestSpecError


async def buckets(panel: Panel, request: PanelRequest) -> Response:
    """Shows the buckets of a user or an address."""
    found, error = None, ""
    typed = {name: request.fields.get(name, "") for name in ("user", "address", "key")}
    if any(typed.values()):
        try:
            found = await panel.control.buckets(subject(request.fields))
        except RequestSpecError as refused:
            error = sentence(str(refused))
    return request.render(
        "buckets.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if error else HTTPStatus.OK,
        typed=typed,
        found=found,
        error=error,
    )


async def confirm_reset(panel: Panel, request: PanelRequest) -> Response:
    """Shows the buckets that a reset would fill, and asks for confirmation."""
    chosen = subject(request.fields)
    return request.render("reset.html", subject=chosen, found=await panel.control.buckets(chosen))


async def reset(panel: Panel, request: PanelRequest) -> Response:
    """Fills all buckets of a user or an address."""
    chosen = subject(request.fields)
    deleted = await panel.control.reset(chosen)
    return request.redirect("/admin/buckets", f"Filled {plural(len(deleted), 'bucket')} of {chosen.name}.")

"""The page Explain: what a request would get now, and why."""

from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.panel.endpoint import Panel, PanelRequest
from ratelimitd.admin.panel.form_fields import request_spec
from ratelimitd.admin.panel.rendering import sentence
from ratelimitd.errors import RequestSpecError

FIELDS = ("user", "address", "key", "path", "method", "headers", "context")


async def explain(panel: Panel, request: PanelRequest) -> Response:
    """Shows the explanation of a request. It takes no tokens, so it is a GET, and its URL can be shared."""
    explanation, error = None, ""
    if "path" in request.fields:
        try:
            explanation = await panel.control.explain(request_spec(request.fields))
        except RequestSpecError as refused:
            error = sentence(str(refused))
    return request.render(
        "explain.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if error else HTTPStatus.OK,
        typed={name: request.fields.get(name, "") for name in FIELDS},
        explanation=explanation,
        error=error,
        identity_header=panel.settings.identity_header,
    )

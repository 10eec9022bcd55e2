"""What the endpoints of the API get from FastAPI."""

from typing import Annotated

from fastapi import Depends, Request

from ratelimitd.control.control import Control


async def _control(request: Request) -> Control:
    control: Control = request.app.state.control
    return control


ControlDependency = Annotated[Control, Depends(_control)]

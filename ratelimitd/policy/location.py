"""Locations in a policy, and their text: `routes[3].cost`."""

import json

Location = tuple[str | int, ...]
"""The keys and list indexes that lead to a part."""

_SHOWN_CHARACTERS = 100


def path_of(location: Location) -> str:
    """Returns a location as text, such as `overrides.users.alice.user.capacity`. Long keys are cut."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            shown = (part if part and part.isprintable() else json.dumps(part))[:_SHOWN_CHARACTERS]
            path += f".{shown}" if path else shown
    return path

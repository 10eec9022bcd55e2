"""Where something stands in a policy, as people write it."""

import json

Location = tuple[str | int, ...]
"""The keys and places that lead to it."""

_SHOWN_CHARACTERS = 100


def path_of(location: Location) -> str:
    """A location as text: `routes[3].cost`, `overrides.users.alice.user.capacity`. Long keys are cut."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            shown = (part if part and part.isprintable() else json.dumps(part))[:_SHOWN_CHARACTERS]
            path += f".{shown}" if path else shown
    return path

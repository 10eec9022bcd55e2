"""A policy in the full form. A value of this class is valid as a whole."""

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ratelimitd.policy.consistency import duplicate_identities, unpayable_costs
from ratelimitd.policy.limits import TiersEntry
from ratelimitd.policy.overrides import OverridesEntry
from ratelimitd.policy.part import INCONSISTENT, Part
from ratelimitd.policy.routes import Routes


class PolicyDocument(Part):
    """The full form."""

    tiers: TiersEntry
    shadow: bool = Field(
        default=False, description="The policy counts the requests that it would deny, and denies none."
    )
    routes: Routes = Field((), description="In order: the first route that matches a request wins.")
    overrides: OverridesEntry = Field(default_factory=OverridesEntry)

    @model_validator(mode="after")
    def _consistent(self) -> "PolicyDocument":
        lines: list[InitErrorDetails] = [
            {
                "type": PydanticCustomError(INCONSISTENT, "{reason}", {"reason": reason}),
                "loc": location,
                "input": None,
            }
            for location, reason in (
                *unpayable_costs(self.tiers, dict(enumerate(self.routes)), shadow=self.shadow),
                *duplicate_identities(self.overrides.users, self.overrides.addresses),
            )
        ]
        if lines:
            raise ValidationError.from_exception_data("policy", lines)
        return self

"""What a message asks of the site, and the policy and cost that its answer depends on."""

from dataclasses import dataclass
from functools import cached_property

from client.ledger.cost import StudyCost
from client.policy.policy import Policy
from common.config.study import Site, Study
from common.wire.messages import Task


@dataclass(frozen=True)
class Request:
    """A task of a study at a site. The policy is the one that held when the message came."""

    site: Site
    policy: Policy
    task: Task

    @property
    def study(self) -> Study:
        return self.task.study

    @cached_property
    def cost(self) -> StudyCost:
        """What the study costs the site; computed once for each request."""
        return StudyCost(self.study)

"""What a message asks of the site, with all that its answer goes by, read once."""

from dataclasses import dataclass
from functools import cached_property

from client.ledger.cost import StudyCost
from client.policy.policy import Policy
from common.config.study import Site, Study
from common.wire.messages import Task


@dataclass(frozen=True)
class Request:
    """A task of a study at a site. The policy is the one that stood when the message came."""

    site: Site
    policy: Policy
    task: Task

    @property
    def study(self) -> Study:
        return self.task.study

    @cached_property
    def cost(self) -> StudyCost:
        return StudyCost(self.study)

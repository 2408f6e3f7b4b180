"""The lab's client as a service: the node, its worker, and what they tell the lab."""

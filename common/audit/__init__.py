"""The audit log: what happened, in lines that are only ever appended."""

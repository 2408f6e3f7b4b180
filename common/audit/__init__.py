"""The audit log: a record of events in a file that is only appended to."""

"""The rounds of a study: asking the sites, checking their replies, and keeping the state."""

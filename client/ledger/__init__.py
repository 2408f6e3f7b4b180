"""The privacy ledger: what was done to a data set, and what it cost."""

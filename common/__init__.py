"""What both sides must agree on. Imports nothing of ours."""

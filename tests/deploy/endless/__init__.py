"""Tests that share a federation; a package, so that it ends with them and not with the session."""

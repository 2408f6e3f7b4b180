"""Audits privacy by attack: what leaks from the training code, compared with what is claimed."""

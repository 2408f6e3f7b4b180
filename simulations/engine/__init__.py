"""Runs simulated sites on a pool of workers: processes of this machine or of a Ray cluster."""

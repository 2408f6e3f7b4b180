"""How simulated sites compute: in this process, in workers, on Ray."""

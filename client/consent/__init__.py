"""What a person at the lab decides: which studies their cells take part in."""

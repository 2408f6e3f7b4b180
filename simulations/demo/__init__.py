"""A whole deployment on one machine, to try the commands on."""

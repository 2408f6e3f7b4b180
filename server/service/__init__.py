"""The server as one service: its processes, and the overview of its state."""

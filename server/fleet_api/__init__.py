"""The public port: who may send requests, what they may send, and how they are answered."""

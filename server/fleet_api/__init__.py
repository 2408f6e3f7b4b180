"""The public port: who may speak, what they may send, what they are answered."""

"""The rounds of a server whose runs say that they come with code."""

from server import flower_run
from server.runner import main

if __name__ == "__main__":
    flower_run.BUNDLE_HASH = "f" * 64
    main()

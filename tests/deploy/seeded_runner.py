"""A lab's runner that draws from a seed, its last argument, as a simulation does."""

import sys
from functools import partial

from client import app
from client.service.worker import main
from simulations.engine.seeded import SeededEntropy

if __name__ == "__main__":
    app.client_app = partial(app.client_app, SeededEntropy(int(sys.argv.pop())))
    main()

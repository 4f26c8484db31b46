"""The same of examples/go, which VOLATTACH_GO_EXAMPLE names. Not found by name: `make go-test` asks for it."""

import os

import test_examples


class Go(test_examples.Python):
    program = (os.environ["VOLATTACH_GO_EXAMPLE"],)

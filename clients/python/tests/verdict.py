"""Runs the tests that are named, or all, and ends in the line that tests/all.sh sums up."""

import sys
import unittest

loader = unittest.TestLoader()
suite = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(".")
result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
skipped = len(result.skipped)
passed = result.testsRun - failed - skipped
word = "ok" if passed and not failed else "FAILED"
print(f"test result: {word}. {passed} passed; {failed} failed; {skipped} ignored", flush=True)
sys.exit(0 if word == "ok" else 1)

"""Runs the functions named test_* of a module against a server and reports the failed ones."""

import sys
import time
import traceback


def main(tests):
    """`tests` are the globals of the module; the server's grpc:// address is the only argument."""
    url = sys.argv[1]
    names = [name for name in tests if name.startswith("test_")]
    failed = 0
    for name in names:
        start = time.monotonic()
        try:
            tests[name](url)
            print(f"ok     {name} ({time.monotonic() - start:.2f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not names else 0)


def raises(kind, work, *words):
    """`work` must raise `kind` with all `words` in its message."""
    try:
        work()
    except kind as error:
        for word in words:
            assert word in str(error), f"{word!r} is not in: {error}"
        return error
    raise AssertionError(f"no {kind.__name__} was raised")

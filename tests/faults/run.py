"""Plant the faults of the tables one at a time in copies of the project, and see that the tests and the claims notice.

    python tests/faults/run.py [--jobs N] [NAME ...]

A NAME is that of a fault or of a table (``linalg``). A fault with tests is noticed if one of them fails; where the named
tests do not notice, the whole suite is tried. A fault with claims is noticed if every claim named fails. What is not noticed,
and whatever keeps a fault from being tried (a text that is gone, a test that fails without it, a time-out), makes the exit
code 1.
"""

import argparse
import concurrent.futures
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tables import HERE, ROOT, faults

LIMIT, WHOLE = 300, 1500  # seconds for the named tests or claims, and for the whole suite
IGNORED = shutil.ignore_patterns(".*", "runs", "__pycache__", "_build", "*.egg-info")
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


class Untried(Exception):
    """A fault that could not be tried, and why."""


def run(root, *args, limit):
    """Run ``python -m ARGS`` in a copy of the project."""
    env = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", *args]
    try:
        return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise Untried(f"ran longer than {limit} s") from None


def failed_test(root, tests, limit):
    """The first test that fails, or None; those of the double of CuPy run on it, all others on NumPy."""
    double = [test for test in tests if test.startswith("tests/doubles")]
    others = [test for test in tests if test not in double]
    failed = failed_on(root, ["--backend", "cupy", "--double"], double, limit) if double else None
    return failed or (failed_on(root, ["--backend", "numpy"], others, limit) if others else None)


def failed_on(root, backend, tests, limit):
    """The first test that fails on a backend, or None."""
    done = run(root, "pytest", "-x", "-q", "-p", "no:cacheprovider", *backend, *tests, limit=limit)
    if done.returncode == 0:
        return None
    failed = re.search(r"^FAILED (\S+)", done.stdout, flags=re.MULTILINE)
    if done.returncode != 1 or failed is None:
        raise Untried(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:].strip()}")
    return failed[1]


def verdicts(root, claims):
    """The verdict of every claim in ``claims``, by id."""
    folder = root / "verdicts"
    shutil.rmtree(folder, ignore_errors=True)
    done = run(root, "nearlin", "verify", "--only", ",".join(claims), "--out", str(folder), limit=LIMIT)
    if not (folder / "claims.json").exists():
        raise Untried(f"verify left no report: {(done.stdout + done.stderr)[-300:].strip()}")
    return {claim["id"]: claim["verdict"] for claim in json.loads((folder / "claims.json").read_text())["claims"]}


def noticed(root, fault):
    """Who notices a fault that is planted under ``root``, or None."""
    if fault.claims:
        found = verdicts(root, fault.claims)
        hold = [name for name in fault.claims if found[name] != "fails"]
        return None if hold else ", ".join(fault.claims)
    named = [test for test in fault.tests if not test.startswith("tests/faults")]
    return failed_test(root, named, LIMIT) or failed_test(root, ["tests", "--ignore", "tests/faults"], WHOLE)


def attempt(root, fault):
    """(Whether the table is right about ``fault``, a sentence)."""
    path = fault.path(root)
    source = path.read_text() if path.exists() else None
    try:
        path.write_text(fault.planted(root))
        who = noticed(root, fault)
    except (Untried, ValueError, OSError) as error:
        return False, f"NOT TRIED: {error}"
    finally:
        if source is not None:
            path.write_text(source)
    return bool(who), who or "SURVIVED"


def green_without(root, chosen):
    """Sentences on the tests and claims that fail although no fault is planted."""
    tests = sorted({test for fault in chosen for test in fault.tests})
    claims = sorted({claim for fault in chosen for claim in fault.claims})
    wrong = []
    if tests and (failed := failed_test(root, tests, WHOLE)):
        wrong.append(f"{failed} fails without a fault")
    if claims:
        wrong += [
            f"claim {name}: {verdict} without a fault" for name, verdict in verdicts(root, claims).items() if verdict != "holds"
        ]
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults tried at a time")
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults or tables; all by default")
    options = parser.parse_args()
    tables = {row["name"]: path.stem for path in HERE.glob("*.json") for row in json.loads(path.read_text())}
    every = [fault for fault in faults() if not fault.equivalent]
    if unknown := set(options.names) - set(tables) - set(tables.values()):
        parser.error(f"no fault and no table: {', '.join(sorted(unknown))}")
    chosen = [fault for fault in every if not options.names or {fault.name, tables[fault.name]} & set(options.names)]

    with tempfile.TemporaryDirectory() as folder:
        copies = queue.SimpleQueue()
        for k in range(options.jobs):
            shutil.copytree(ROOT, Path(folder) / str(k), ignore=IGNORED)
            copies.put(Path(folder) / str(k))
        wrong = green_without(Path(folder) / "0", chosen)
        print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)

        def one(fault):
            root, start = copies.get(), time.monotonic()
            try:
                right, sentence = attempt(root, fault)
            finally:
                copies.put(root)
            print(f"{fault.name:32} {time.monotonic() - start:5.0f} s  {sentence}", flush=True)
            return right

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            right = list(pool.map(one, chosen))
    print(f"{sum(right)} passed, {len(right) - sum(right) + len(wrong)} failed")
    sys.exit(bool(wrong) or not all(right))


if __name__ == "__main__":
    main()

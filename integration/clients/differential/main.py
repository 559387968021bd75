"""Compares Squadron's answers to generated queries with DuckDB's.

main.py --make DATA [--seed 1] makes the tables; a server then serves DATA, and
main.py URL DATA [--queries 5000] [--seed 1] [--only N] [--form correlated] runs the queries against both and exits with 1 if an answer
differs or one side alone refuses. main.py --known prints what is kept out of the comparison, and why.
"""

import argparse
import sys
from collections import Counter

import compare
import engines
import known
import queries
import tables

SHOWN_ROWS = 10


def main():
    """The command."""
    options = _options()
    if options.known:
        _print_known()
        return
    if options.make:
        tables.make(options.make, options.seed)
        return
    squadron, duckdb = engines.Squadron(options.url), engines.DuckDB(options.data)
    numbers = [options.only] if options.only is not None else range(options.queries)
    counts = Counter()
    for number in numbers:
        query = queries.generate(options.seed, number, options.form)
        outcome, detail = _outcome(squadron, duckdb, query)
        counts[outcome] += 1
        if outcome not in ("equal", "both refused"):
            print(f"--- {outcome}: seed {options.seed}, query {number}\n{query.sql}\n{detail}\n", flush=True)
        elif options.only is not None:
            print(f"{query.sql}\n{detail}")
    _summarize(counts)
    sys.exit(1 if counts["differs"] or counts["refused by Squadron"] or counts["refused by DuckDB"] else 0)


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="the server's grpc:// address")
    parser.add_argument("data", nargs="?", help="the folder that the server serves")
    parser.add_argument("--make", metavar="DATA", help="only make the tables in this folder")
    parser.add_argument("--known", action="store_true", help="only print the documented differences")
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="N", help="run only the query of this number")
    parser.add_argument("--form", choices=["correlated"], help="only queries of this form")
    options = parser.parse_args()
    if not (options.make or options.known or (options.url and options.data)):
        parser.error("URL and DATA are required")
    return options


def _print_known():
    for difference in known.DIFFERENCES:
        print(f"{difference.name}: {difference.reason}. Avoided: {difference.avoided}.")
    for form in known.REFUSED:
        print(f"not written, as Squadron refuses it: {form}")


def _outcome(squadron, duckdb, query):
    """What the two engines made of a query, and the details to print."""
    answers, errors = [], []
    for engine in (squadron, duckdb):
        try:
            answers.append(engine.run(query.sql))
        except engines.Refused as error:
            answers.append(None)
            errors.append(f"{type(engine).__name__} refused: {error}")
    left, right = answers
    if left is not None and right is not None:
        return _compared(left, right, query)
    if left is None and right is None:
        return "both refused", "\n".join(errors)
    refusing, answer = ("Squadron", right) if left is None else ("DuckDB", left)
    return f"refused by {refusing}", f"{errors[0]}\nThe other:\n{_first(compare.rows_of(answer, answer))}"


def _compared(squadron, duckdb, query):
    found = compare.difference(squadron, duckdb, query.order)
    left, right = compare.rows_of(squadron, duckdb), compare.rows_of(duckdb, squadron)
    if not found:
        return "equal", _first(left)
    alone = [_first(compare.apart(left, right)), _first(compare.apart(right, left))]
    return "differs", f"{found}\nSquadron alone:\n{alone[0]}\nDuckDB alone:\n{alone[1]}"


def _first(rows):
    more = [f"  ... {len(rows)} rows"] if len(rows) > SHOWN_ROWS else []
    return "\n".join([f"  {row}" for row in rows[:SHOWN_ROWS]] + more)


def _summarize(counts):
    compared = counts["equal"] + counts["differs"]
    print(f"{sum(counts.values())} queries: {compared} compared")
    print(f"{counts['equal']} equal\n{counts['differs']} differing")
    for outcome in ("both refused", "refused by Squadron", "refused by DuckDB"):
        print(f"{counts[outcome]} {outcome}")


if __name__ == "__main__":
    main()

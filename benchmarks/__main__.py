"""Entry point of `python -m benchmarks`.

The import stands under the guard because worker processes import this module again: they must not pay for the
command line, the tables and the charts.
"""

if __name__ == "__main__":
    from benchmarks.cli import main

    main(prog_name="python -m benchmarks")

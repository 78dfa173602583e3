"""All results as people look at them: tables, figures and a CSV of the records: python -m pruner.report"""

from pathlib import Path

from pruner import run_script

# Flags
records = "records"  # the folder of the records, and of what is written
figures = True  # draw figures, and not only tables and CSV


def main() -> None:
    from pruner.utils.flags import parse_flags

    args = parse_flags(globals())
    from pruner.report.figures import missing_matplotlib
    from pruner.report.page import write_report

    problem = args.figures and missing_matplotlib()
    if problem:
        print(f"no figures: {problem}")
    write_report(Path(args.records), args.figures and not problem)


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))

"""All results as people look at them: tables, figures and a CSV of the records: python -m pruner.report"""

from pathlib import Path

from pruner.utils.errors import UserError, run_script
from pruner.utils.flags import parse_flags

# Flags
records = "records"  # the folder of the records, and of what is written
figures = True  # draw figures, and not only tables and CSV


def main() -> None:
    args = parse_flags(globals())
    from pruner.report.figures import check_matplotlib
    from pruner.report.page import write_report

    if args.figures:
        try:
            check_matplotlib()
        except UserError as error:
            print(f"no figures: {error}")
            args.figures = False
    print("\n".join(write_report(Path(args.records), args.figures)[1]))


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))

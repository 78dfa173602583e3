"""All results as people look at them: tables, figures and a CSV of the records: python -m pruner.report"""

import argparse
import sys
from pathlib import Path

from pruner.report.figures import check_matplotlib
from pruner.report.page import write_report
from pruner.utils.errors import Parser, UserError, run_script


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--records", default="records", help="the folder of the records, and of what is written")
    parser.add_argument("--no-figures", action="store_true", help="tables and CSV only")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    root, with_figures = Path(args.records), not args.no_figures
    if with_figures:
        try:
            check_matplotlib()
        except UserError as error:
            print(f"no figures: {error}")
            with_figures = False
    print("\n".join(write_report(root, with_figures)[1]))


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))

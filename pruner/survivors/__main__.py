"""Which words survive, layer by layer, in the terminal, as pictures and as a page: python -m pruner.survivors"""

from pruner import run_script


def main() -> None:
    from pruner.utils.errors import UserError
    from pruner.utils.flags import Parser

    parser = Parser(__doc__, prog="python -m pruner.survivors")
    add = parser.add_argument
    add("run", nargs="?", help="a record's folder, or that of a kept model (default: the newest run in records/)")
    add("--sentence", action="append", default=[], help="a sentence of yours; may be repeated")
    add("--second", action="append", default=[], help="the second sentence, for tasks of pairs")
    add("--dev", type=int, default=3, help="without a sentence: how many of dev, from its beginning (default: 3)")
    add("--cache", help="where dev is (default: that of the run)")
    add("--output", help="where page and pictures go (default: beside the record, or the model)")
    args = parser.parse_args()
    if args.dev < 1:
        raise UserError(f"--dev: {args.dev} sentences; use 1 or more")
    if args.second and not args.sentence:
        raise UserError("--second: without a first sentence; give it with --sentence")
    from pruner.survivors.show import show

    show(args)


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))

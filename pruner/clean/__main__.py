"""Remove kept stages and models that no unfinished cell needs: python -m pruner.clean"""

from pruner import run_script

# Flags
cache = "cache"  # the folder in which the run scripts' cache folders lie
models = True  # kept models too: python -m pruner.survivors and --predict-test read those of finished runs
unfinished = False  # also what unfinished cells need: they begin anew when they are run again
yes = False  # do not ask


def main() -> None:
    from pruner.utils.flags import parse_flags

    args = parse_flags(globals())
    from pruner.clean.folders import clean

    clean(args)


if __name__ == "__main__":
    run_script(main)

"""Flags are made of the scripts' constants: one name, type and default for each, and help without heavy imports."""

import argparse
import ast
import importlib
import math
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import pruner
from pruner.data.task import TASKS
from pruner.experiments import demo_settings
from pruner.experiments.settings import check_settings
from pruner.utils import flags
from pruner.utils.errors import SettingError, UserError, flag_name, unknown
from pruner.utils.flags import parse_flags

RUN = (
    "accumulation-steps batch-size cache clip count demo discard-models dry-run epochs force latency-repeats "
    "latency-batch-size latency-dtype "
    "learning-rate max-train-rows methods predict-test records save-models seeds student-learning-rate student-widths "
    "tasks tensorboard train-dtype "
)
LSTM = RUN + "embedding-size head-size hidden-size num-layers pruning-rate-start target-prune-rate vectors"
TABLE = "table text label name dev-table test-table tsv dev-tsv test-tsv "
# The flags that users know; a script's constants may not lose one.
FLAGS = {
    "RunBert4Glue": RUN
    + "bert budget-schedule calibration-texts schedule search-penalty search-reach soft-extract-learning-rate start "
    "target-flops-reduction target-speedup teacher held-out layers-dropped multi-task-levels ticket-feed-forwards "
    "ticket-levels "
    "width-cost width-reduction csr distil-share distil-temperature embedding-rank int8-embeddings layers-trained "
    "sparsity",
    "RunLstm4Glue": LSTM,
    "RunLstm4Agnews": LSTM,
    "PrepareGlue4Bert": TABLE + "bert cache data download glue-address max-length skip-bad-rows tasks",
    "PrepareGlue4Lstm": TABLE + "cache data download glue-address max-length skip-bad-rows tasks vocabulary-size",
    "PrepareAgnews4Lstm": "agnews-address cache columns data download max-length skip-bad-rows vocabulary-size",
    "pruner.measure": "batch-sizes cache device dtypes json kept lengths methods random repeats schedule "
    "student-widths task training weights",
    "pruner.report": "figures records",
}
NO_CONSTANTS = {
    "pruner.survivors": "cache dev output second sentence",
    "ConvertBert4Torch": "bert_config_file force gelu pytorch_dump_path tf_checkpoint_path",
}
HEAVY = {"matplotlib", "numpy", "pandas", "scipy", "tensorflow", "torch", "transformers"}


def constants(name: str) -> dict[str, str]:
    """The names in lower case at the top level of a script, and what is behind each in its last line."""
    path = ROOT / (f"{name.replace('.', '/')}/__main__.py" if "." in name else f"{name}.py")
    lines = path.read_text(encoding="utf-8").splitlines()
    found = {}
    for node in ast.parse("\n".join(lines)).body:
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Name) and target.id.islower():
                found[target.id] = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
    return found


def help_by_flag(out: str) -> dict[str, str]:
    """``--help`` by its flags, in one line each."""
    parts = re.split(r"^  (--[\w-]+)", re.sub(r"\n\n\w.*:\n(  \w.*\n\n)?", "\n", out), flags=re.MULTILINE)
    return {flag: " ".join(text.split()) for flag, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("name", FLAGS)
def test_constants_are_flags_and_flags_are_constants(name, run):
    code, out, _ = run(name, "--help")
    shown = help_by_flag(out)
    assert code == 0
    assert set(shown) - {"--version"} == {flag_name(constant) for constant in constants(name)}
    assert set(shown) - {"--version"} == {f"--{flag}" for flag in FLAGS[name].split()}
    for constant, comment in constants(name).items():
        text = shown[flag_name(constant)]
        assert re.fullmatch(r"  # \S.*", comment), constant
        assert comment.removeprefix("  # ") in text
        assert text.count("(default: ") == 1
        assert text.endswith(")")


@pytest.mark.parametrize("name", NO_CONSTANTS)
def test_other_flags_are_those_that_users_know(name, run):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert set(help_by_flag(out)) - {"--version"} == {f"--{flag}" for flag in NO_CONSTANTS[name].split()}
    assert "(default: None)" not in out


def test_a_switch_has_two_ways(run):
    shown = help_by_flag(run("pruner.report", "--help")[1])
    assert shown["--figures"] == ", --no-figures draw figures, and not only tables and CSV (default: True)"


def test_help_is_in_groups(run):
    out = run("RunBert4Glue", "--help")[1]
    titles = [
        "Data and model",
        "Pruning",
        "Width and depth",
        "Bits, teachers and zeros",
        "Training",
        "Output",
        "What to run",
    ]
    assert re.findall(r"^(\w.*):$", out, re.MULTILINE) == ["options", *titles]
    assert out.index("Training:") < out.index("--epochs") < out.index("Output:")
    assert "--count {real,padded}" in out
    assert "(default: 0.6,0,0,0,0,0,0,0,0,0,0,0)" in " ".join(out.split())


@pytest.mark.parametrize("name", [*FLAGS, *NO_CONSTANTS])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(name, flag, tmp_path):
    run = f"run_module({name!r}" if "." in name else f"run_path({str(ROOT / f'{name}.py')!r}"
    code = f"""
import runpy, sys
sys.argv, sys.path[0] = ["script", {flag!r}], {str(ROOT)!r}
try:
    runpy.{run}, run_name="__main__")
finally:
    print(sorted(set(sys.modules) & {HEAVY}))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    if flag == "--version":
        assert result.stdout.startswith(f"Sequence Pruning {pruner.__version__} (")


def test_the_version_names_the_commit_where_there_is_a_checkout(run, monkeypatch):
    for commit, shown in (("0123abc-dirty", "0123abc-dirty"), (None, "no checkout")):
        monkeypatch.setattr(flags, "git_commit", lambda commit=commit: commit)
        assert run("RunLstm4Glue", "--version")[:2] == (0, f"Sequence Pruning {pruner.__version__} ({shown})\n")


SCRIPT = '''"""A script."""
from typing import Literal
# Numbers: all of one kind
whole = 32  # a 100 % whole number
rate = 2e-5  # a rate
rates: list[float] = [0.6] + [0.0] * 2  # several
maybe: int | None = None  # one or none
one_or_more: float | list[float] = 1  # one or more
grids: list[list[float]] = [[0.5]]  # lists
# Others
mode: Literal["real", "padded"] = "real"  # one of two
way: Literal["fast", "slow"] | None = None  # one of two, or none
modes: list[Literal["a", "b"]] = ["a"]  # several of two
words = ["x",
         "y"]  # over two lines
name: str | None = None  # of something
place = "here"  # where
off = False  # a switch
on = True  # another
UPPER = 1  # no flag
demo = False  # something small
pruning_methods = ["m"]  # with another name
'''


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parse flags by the script above, some of whose constants may be others."""

    def call(*arguments, demo=None, **changes):
        (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
        script = {"__file__": str(tmp_path / "script.py"), "__package__": None}
        exec(SCRIPT, script)
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        return parse_flags(script | changes, demo)

    return call


def test_values_are_those_of_the_script_in_their_types(parse):
    args = parse()
    assert vars(args) == {
        "whole": 32,
        "rate": 2e-5,
        "rates": [0.6, 0.0, 0.0],
        "maybe": None,
        "one_or_more": [1.0],
        "grids": [[0.5]],
        "mode": "real",
        "way": None,
        "modes": ["a"],
        "words": ["x", "y"],
        "name": None,
        "place": "here",
        "off": False,
        "on": True,
        "demo": False,
        "pruning_methods": ["m"],
        "given": frozenset(),
    }
    assert isinstance(args.one_or_more[0], float)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--whole", "7"], {"whole": 7}),
        (["--rate=-1e-3"], {"rate": -1e-3}),
        (["--rates", "1, 0.5"], {"rates": [1.0, 0.5]}),
        (["--rates", ""], {"rates": []}),
        (["--maybe", "3"], {"maybe": 3}),
        (["--one-or-more", "2,3"], {"one_or_more": [2.0, 3.0]}),
        (["--grids", "0.1", "0.2,0.3"], {"grids": [[0.1], [0.2, 0.3]]}),
        (["--mode", "padded"], {"mode": "padded"}),
        (["--way", "slow", "--modes", "b,a"], {"way": "slow", "modes": ["b", "a"]}),
        (["--name", "none"], {"name": "none"}),  # the word, not nothing
        (["--off", "--no-on"], {"off": True, "on": False}),
        (["--no-off", "--on"], {"off": False, "on": True}),
        (["--methods", "a+b,c"], {"pruning_methods": ["a+b", "c"]}),
    ],
)
def test_flags_override_constants(parse, arguments, expected):
    args = parse(*arguments)
    assert {name: getattr(args, name) for name in expected} == expected
    assert args.given == set(expected)
    default = vars(parse())
    assert {name for name, value in vars(args).items() if value != default[name]} - {"given"} <= set(expected)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--whole", "2.5"], "whole: '2.5' is not a whole number"),
        (["--rates", "1,lots"], "rates: 1,lots: 'lots' is not a number"),
        (["--rates", "1,,2"], "rates: 1,,2: a part is empty"),
        (["--mode", "reel"], "mode: unknown value 'reel'; did you mean real? choose from real, padded"),
        (["--modes", "a,c"], "modes: a,c: unknown value 'c'; choose from a, b"),
    ],
)
def test_flags_of_another_type(parse, arguments, line):
    with pytest.raises(SettingError) as error:
        parse(*arguments)
    name, problem = line.split(": ", 1)
    assert str(error.value) == f"--{name} ({name}): {problem}"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"whole": None}, "whole: None is not text"),
        ({"words": {"x": 1}}, "words: {'x': 1} is not text"),
        ({"maybe": 2.5}, "maybe: 2.5 is not a whole number"),
        ({"maybe": "many"}, "maybe: 'many' is not a whole number"),
        ({"rates": [0, "x"]}, "rates: 0,x: 'x' is not a number"),
        ({"rates": None}, "rates: None is not a number"),
        ({"mode": "both"}, "mode: unknown value 'both'; choose from real, padded"),
    ],
)
def test_constants_of_another_type(parse, changes, line):
    with pytest.raises(SettingError) as error:
        parse(**changes)
    name, problem = line.split(": ", 1)
    assert str(error.value) == f"--{name} ({name}): {problem}"


def test_a_scalar_for_a_list_and_whole_numbers_for_others_are_taken(parse):
    args = parse(rates=1, words=("x",), maybe=2)
    assert (args.rates, args.words, args.maybe) == ([1.0], ["x"], 2)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--hwole", "1"], "--hwole: no such flag; did you mean --whole? (see script.py --help)"),
        (["--one_or_more=1"], "--one_or_more: no such flag; did you mean --one-or-more? (see script.py --help)"),
        (["--zzz"], "--zzz: no such flag (see script.py --help)"),
        (["-w"], "-w: no such flag (see script.py --help)"),
        (["more"], "unrecognized arguments: more (see script.py --help)"),
        (["--whole"], "--whole: expected one argument (see script.py --help)"),
        (["--who", "1"], "--who: no such flag; did you mean --whole? (see script.py --help)"),
    ],
)
def test_unknown_flags(parse, arguments, line):
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert str(error.value) == line


def test_mistyped_flags_come_before_those_that_are_missing(run):
    code, _, err = run("ConvertBert4Torch", "--tf-checkpoint-path", "x")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: --tf-checkpoint-path: no such flag; did you mean --tf_checkpoint_path? (see Convert")
    code, _, err = run("pruner.survivors", "--sentense", "x")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean --sentence? (see python -m pruner.survivors --help)" in err


def test_an_error_names_flag_and_constant_in_one_line(run):
    code, _, err = run("RunLstm4Glue", "--batch-size", "0")
    line = "error: --batch-size (batch_size): 0 is out of range; use a whole number from 1 to 2147483647\n"
    assert (code, err) == (2, line)
    code, _, err = run("RunBert4Glue", "--schedule", "0.5,x")
    assert (code, err) == (2, "error: --schedule (pruning_schedule): 0.5,x: 'x' is not a number\n")


def test_unknown_names():
    assert unknown("task", "mrcp", ["rte", "mrpc"]) == "unknown task 'mrcp'; did you mean mrpc? choose from rte, mrpc"
    assert unknown("task", "x", {"rte": 1}) == "unknown task 'x'; choose from rte"


def test_demo_replaces_constants_but_not_what_the_user_gives(parse):
    demo = {"whole": 1, "rates": [0.1], "elsewhere": "x"}
    assert (parse(demo=demo).whole, parse(demo=demo).rates) == (32, [0.6, 0.0, 0.0])
    args = parse("--demo", "--rates", "0.3", demo=demo)
    assert (args.whole, args.rates, args.given) == (1, [0.3], {"rates", "demo"})
    assert parse(demo=demo, whole=5).whole == 5
    assert parse("--whole", "7", demo=demo).whole == 7


@pytest.mark.parametrize(
    ("name", "demo"),
    [
        ("RunBert4Glue", demo_settings.BERT),
        ("RunLstm4Glue", demo_settings.LSTM),
        ("RunLstm4Agnews", demo_settings.LSTM),
    ],
)
def test_the_demos_settings_are_constants_of_the_scripts(name, demo):
    assert set(demo) <= set(constants(name))


def test_the_demos_schedule_is_as_long_as_its_bert():
    from pruner.data.sample import LAYERS

    assert len(demo_settings.BERT["pruning_schedule"]) == LAYERS


def test_the_scripts_tasks_are_those_there_are():
    tasks = {name: importlib.import_module(name).tasks for name in FLAGS if "Glue" in name}
    assert tasks["PrepareGlue4Bert"] == tasks["RunBert4Glue"] == [name for name, task in TASKS.items() if task.files]
    assert tasks["PrepareGlue4Lstm"] == tasks["RunLstm4Glue"]
    assert all(TASKS[name].labels for name in tasks["RunLstm4Glue"])


def test_both_prepare_scripts_say_the_same_of_a_table_of_ones_own():
    bert, lstm = constants("PrepareGlue4Bert"), constants("PrepareGlue4Lstm")
    for flag in TABLE.split():
        assert bert[flag.replace("-", "_")] == lstm[flag.replace("-", "_")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batch_size", value) for value in ("many", 2.5, 0)),
        *(("seeds", value) for value in ([], ["x"], [-1])),
        *(("epochs", value) for value in ("x", 0.0, 1e6, math.nan)),
        *(("target_prune_rate", []), ("target_flops_reduction", [2.0, 1.0]), ("student_widths", [64, 10_001])),
    ],
)
def test_settings_are_checked_whatever_the_constants_hold(name, value):
    check_settings(argparse.Namespace(batch_size=None, seeds=[0, 2**32 - 1], epochs=0.1, clip=None, student_widths=[]))
    with pytest.raises(SettingError, match=rf"^{flag_name(name)} \({name}\): "):
        check_settings(argparse.Namespace(**{name: value}))

"""Progress is a bar on a terminal only: a file gets a plain line now and then."""

import io
import sys
import time
from types import SimpleNamespace

import pytest

from pruner.training.train import EpochLosses
from pruner.utils.progress import Progress, close_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that only its list's sum moves."""
    passed = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: sum(passed))
    return passed


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["2 of 5 row, about 2 min left", "4 of 5 row, about 31 s left"]),
        (
            {"desc": "all", "unit_scale": True},
            [f"all: {n} of 5.00 row, {left} left" for n, left in (("2.00", "about 2 min"), ("4.00", "about 31 s"))],
        ),
    ],
)
def test_a_file_gets_a_line_a_minute(clock, capsys, options, lines):
    bar = Progress(range(5), unit="row", **options)
    seen = []
    for item in bar:
        seen.append(item)
        clock.append(31.0)
    bar.close()
    assert (seen, bar.n) == ([0, 1, 2, 3, 4], 5)
    assert capsys.readouterr().err.splitlines() == lines


def test_what_takes_no_minute_says_nothing_and_counts(clock, capsys):
    with Progress(desc="choosing", unit="schedule") as bar:
        for _ in range(3):
            bar.update()
        assert bar.n == 3
        assert capsys.readouterr().err == ""
        clock.append(100.0)
        bar.update(2)
    assert capsys.readouterr().err == "choosing: 5 schedule\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = Progress(range(3), unit="row")
    assert list(bar) == [0, 1, 2]
    open_bar = Progress(total=9)
    close_bars()
    assert open_bar.disable
    assert "\r" in screen.getvalue()
    assert "3/3" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        (1, ["loss 1.5000 in epoch 1, 3.5000 in epoch 2, 5.5000 in epoch 3 of 3"]),
        (3600, ["loss 1.5000 in epoch 1 of 3", "loss 3.5000 in epoch 2 of 3", "loss 5.5000 in epoch 3 of 3"]),
        (31, ["loss 1.5000 in epoch 1, 3.5000 in epoch 2 of 3", "loss 5.5000 in epoch 3 of 3"]),
    ],
)
def test_a_line_is_for_an_epoch_or_for_a_minute(clock, seconds, lines):
    """Two steps an epoch, with losses 1, 2, 3, ..."""
    said: list[str] = []
    callback, state = EpochLosses(said.append), SimpleNamespace(global_step=0, max_steps=6, log_history=[])
    args = SimpleNamespace(num_train_epochs=3.0)
    callback.on_train_begin(args, state, None)
    for _ in range(3):
        for _ in range(2):
            state.global_step += 1
            state.log_history.append({"loss": float(state.global_step), "step": state.global_step})
        clock.append(float(seconds))
        callback.on_epoch_end(args, state, None, train_dataloader=range(2))
    assert said == lines
    # After an interruption, those of earlier epochs are said once more.
    again: list[str] = []
    callback, state.global_step = EpochLosses(again.append), 4
    callback.on_train_begin(args, state, None)
    state.global_step = 6
    callback.on_epoch_end(args, state, None, train_dataloader=range(2))
    assert again == [
        "training goes on after step 4 of 6",
        "loss 1.5000 in epoch 1, 3.5000 in epoch 2, 5.5000 in epoch 3 of 3",
    ]

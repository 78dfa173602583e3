"""What is to be pruned: the schedule, the method of each layer, and all checks of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, groupby
from typing import Any

import numpy as np

from pruner.compress.tokens.scores import SCORERS, Scorer, scorer_names
from pruner.compress.tokens.select import keep_counts
from pruner.utils.errors import SettingError, UserError, check_whole, unknown

COUNTS = ("real", "padded")
SIZE = (1, 10_000)  # of a width, and of the number of layers: beyond lies a slip, not a model
SEED, LENGTH = (0, 2**32 - 1), (1, 2**31 - 1)


@dataclass(frozen=True)
class Pruning:
    """A model's pruning, as it is checked, run and saved in the ``pruning`` entry of its config.

    ``methods`` has one name per layer, ``None`` where the rate is 0. ``student_widths`` are the hidden widths of the
    students' MLPs. ``padded_length`` only matters for ``count="padded"``; ``seed`` only for ``random``.
    """

    schedule: tuple[float, ...]
    methods: tuple[str | None, ...]
    teacher: str | None = None
    count: str = "real"
    padded_length: int | None = None
    seed: int = 0
    student_widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        numbers = [("seed", self.seed, SEED), *(("student_widths", width, SIZE) for width in self.student_widths)]
        if self.padded_length is not None:
            numbers.append(("padded_length", self.padded_length, LENGTH))
        for name, number, (low, high) in numbers:
            check_whole(name, number, low, high)

    def to_dict(self) -> dict:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, saved: dict) -> "Pruning":
        """Read the pruning of a saved model; raise a ``UserError`` if it cannot be run, or has unregistered scorers."""
        try:
            fields: dict[str, Any] = {k: tuple(x) if isinstance(x, list) else x for k, x in saved.items()}
            pruning = cls(**fields)
            check_schedule(pruning.schedule, len(pruning.methods))
        except (TypeError, AttributeError) as error:
            raise UserError(f"pruning: not of a pruned model's config.json ({error}); copy it again") from None
        for name in (*pruning.methods, pruning.teacher):
            if name and name not in SCORERS:
                raise UserError(f"pruning: {name!r} is not a registered scorer; register it before loading the model")
        return pruning

    @classmethod
    def none(cls, layers: int) -> "Pruning":
        return cls((0.0,) * layers, (None,) * layers)

    @property
    def method(self) -> str:
        """The methods of the pruned layers: ``"student"``, or ``"emission+random"`` where they differ."""
        used = [method for method in self.methods if method]
        return "+".join(used[:1] if len(set(used)) == 1 else used) or "none"

    def with_schedule(self, schedule: Sequence[float]) -> "Pruning":
        """Set other rates, in any layers, for the one method; raise a ``UserError`` if there are several or none."""
        used = set(filter(None, self.methods))
        if len(used) > 1 or (not used and any(schedule)):
            problem = f"with {self.method!r} it is not known which method other layers have"
            raise SettingError("pruning_methods", f"{problem}; set_pruning takes one method, or one per layer")
        methods = tuple(self.method if rate > 0 else None for rate in schedule)
        return replace(self, schedule=tuple(schedule), methods=methods)

    def keep_counts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Count the tokens of each sentence that each layer computes."""
        return keep_counts(lengths, self.schedule, self.count, self.padded_length)

    @property
    def scorers(self) -> list[Scorer | None]:
        """The scorer of each layer."""
        return [SCORERS[method] if method else None for method in self.methods]

    @property
    def student_layers(self) -> list[int]:
        """Layers whose scorer is learned."""
        return [layer for layer, scorer in enumerate(self.scorers) if scorer and scorer.learned]

    @property
    def needs_occurrences(self) -> bool:
        return any(scorer.needs_occurrences for scorer in self.scorers if scorer)

    @property
    def nominal_rate(self) -> float:
        """The share of (token, layer) pairs that the schedule drops, before rounding."""
        return 1 - float(np.subtract(1, self.schedule).cumprod().mean())


def make_pruning(
    schedule: float | Sequence[float],
    methods: str | Sequence[str | None],
    num_layers: int = 1,
    teacher: str | None = None,
    count: str = "real",
    padded_length: int | None = None,
    seed: int = 0,
    student_widths: Sequence[int] = (64, 64),
    model: str = "bert",
) -> Pruning:
    """Check what the user asked for and put it into canonical form.

    Args:
        schedule: one rate per layer; a single one for an LSTM, which is one layer to pruning.
        methods: a name of ``scores.SCORERS`` for all pruned layers, several joined by + for one each, or a list with
            one per layer (ignored where the rate is 0).
        teacher: whom students imitate; by default the model's first scorer with an unpruned pass.
        model: ``"bert"`` or ``"lstm"``.

    Raises:
        UserError: a schedule of the wrong length or with an impossible rate, an unknown method, teacher or count.
    """
    name = "target_prune_rate" if model == "lstm" else "pruning_schedule"
    rates = check_schedule([schedule] if isinstance(schedule, int | float) else schedule, num_layers, name)
    chosen, known = _layer_methods(methods, rates), scorer_names(model)
    for layer, (method, rate) in enumerate(zip(chosen, rates, strict=True)):
        if rate > 0 and method not in known:
            where = f" for layer {layer}" if num_layers > 1 else ""
            raise SettingError("pruning_methods", unknown(f"method{where}", method, known))
    teachers = scorer_names(model, unpruned_pass=True)
    if not any(SCORERS[method].learned for method in chosen if method):
        teacher, student_widths = None, ()
    elif (teacher := teacher or teachers[0]) not in teachers:
        raise SettingError("teacher", unknown("teacher", teacher, teachers))
    if count not in COUNTS:
        raise SettingError("count", unknown("counting", count, COUNTS))
    if count == "real":
        padded_length = None
    elif padded_length is None:
        raise SettingError("count", '"padded" needs the length that sentences were padded to; give padded_length')
    if isinstance(student_widths, str) or not isinstance(student_widths, Sequence):
        raise SettingError("student_widths", f"{student_widths!r} is not a list; give one width per hidden layer")
    return Pruning(rates, tuple(chosen), teacher, count, padded_length, seed, tuple(student_widths))


def check_rate(rate: float | str, name: str, where: str = "") -> float:
    """Check a share of the tokens, ``0 <= rate < 1``, of the constant ``name``; raise a ``UserError`` for others."""
    try:
        value = float(rate)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(name, f"{rate!r:.60}{where} is not a number; use rates of at least 0 and below 1") from None
    if not 0 <= value < 1:  # nor is nan
        raise SettingError(name, f"rate {rate}{where} is out of range; use rates of at least 0 and below 1")
    return value


def check_schedule(
    schedule: Sequence[float | str], num_layers: int, name: str = "pruning_schedule"
) -> tuple[float, ...]:
    """Check one rate per layer, ``0 <= rate < 1``, of the constant ``name``; raise a ``UserError`` for others."""
    if isinstance(schedule, str) or not isinstance(schedule, Sequence):
        raise SettingError(name, f"{schedule!r} is not a list of rates; give one rate per BERT layer")
    if len(schedule) != num_layers:
        problem = f"{len(schedule)} rates for a model of {num_layers} layers"
        example = ",".join(["0.6"] + ["0"] * (num_layers - 1))
        raise SettingError(name, f"{problem}; give one rate per layer, for example {example}")
    where = " at layer {}" if num_layers > 1 else ""
    return tuple(check_rate(rate, name, where.format(layer)) for layer, rate in enumerate(schedule))


def _layer_methods(methods: str | Sequence[str | None], schedule: Sequence[float]) -> list[str | None]:
    """List the method of each layer, from ``"student"`` for all, ``"student+random"`` for one each, or a list."""
    if isinstance(methods, str):
        names, pruned = methods.split("+"), sum(rate > 0 for rate in schedule)
        if len(names) not in (1, pruned):
            problem = f"{methods!r} names {len(names)} methods, but the schedule prunes at {pruned} layers"
            raise SettingError("pruning_methods", f"{problem}; give one method, or one per pruned layer joined by +")
        remaining = cycle(names)
        return [next(remaining) if rate > 0 else None for rate in schedule]
    if not isinstance(methods, Sequence):
        raise SettingError(
            "pruning_methods", f"{methods!r:.60} is not a method; give one by its name, or one per layer"
        )
    if len(methods) != len(schedule):
        problem = f"{len(methods)} methods for {len(schedule)} layers"
        raise SettingError("pruning_methods", f"{problem}; give one per layer, or one")
    return [method if rate > 0 else None for method, rate in zip(methods, schedule, strict=True)]


def schedule_text(schedule: Sequence[float]) -> str:
    """Write a schedule as people read it, and as ``--schedule`` takes it: ``[0.6, 0, 0]`` -> ``"0.6,0,0"``."""
    return ",".join(f"{rate:g}" for rate in schedule)


def schedule_name(schedule: Sequence[float]) -> str:
    """Shorten a schedule for names of files: ``[0.6, 0, 0, 0]`` -> ``"0.6-0x3"``."""
    runs = [(text, len(list(run))) for text, run in groupby(f"{rate:g}" for rate in schedule)]
    return "-".join(text if times == 1 else f"{text}x{times}" for text, times in runs)

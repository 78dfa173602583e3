"""What is to be pruned: the schedule, the method of each layer, and the checks that every way in shares."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pruner.compress.tokens.scores import CONTROLS, TEACHERS
from pruner.utils.errors import SettingError, unknown

METHODS = ("student", "attention", *TEACHERS, *CONTROLS)
LSTM_METHODS = ("student", "gate", *CONTROLS)
COUNTS = ("real", "padded")


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

    def to_dict(self) -> dict:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, saved: dict) -> "Pruning":
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in saved.items()}
        return cls(**fields)

    @classmethod
    def none(cls, layers: int) -> "Pruning":
        return cls((0.0,) * layers, (None,) * layers)

    @property
    def method(self) -> str:
        """The methods of the pruned layers: ``"student"``, or ``"emission+random"`` where they differ."""
        used = [method for method in self.methods if method]
        return "+".join(dict.fromkeys(used) if len(set(used)) == 1 else used) or "none"

    def with_schedule(self, schedule: Sequence[float]) -> "Pruning":
        """The same with other rates and one method, that of the first layer which is pruned."""
        method = next(filter(None, self.methods), None)
        return replace(self, schedule=tuple(schedule), methods=tuple(method if rate > 0 else None for rate in schedule))

    @property
    def student_layers(self) -> list[int]:
        return [layer for layer, method in enumerate(self.methods) if method == "student"]

    @property
    def nominal_rate(self) -> float:
        """The share of (token, layer) pairs that the schedule drops, before rounding."""
        kept, total = 1.0, 0.0
        for rate in self.schedule:
            kept *= 1 - rate
            total += kept
        return 1 - total / len(self.schedule)


@dataclass(frozen=True)
class SearchSettings:
    """How PoWER-BERT's search goes.

    ``reach`` is the FLOPs reduction that it ends with; without one, ``penalty`` is PoWER-BERT's lambda (1e-4 to 7e-3).
    ``learning_rate`` is that of the soft-extract parameters (PoWER-BERT: 1e-4 to 1e-2).
    """

    reach: float | None
    penalty: float | None
    learning_rate: float

    @property
    def name(self) -> str:
        return f"soft-extract-{self.reach:g}x" if self.reach else f"soft-extract-lambda{self.penalty:g}"


@dataclass(frozen=True)
class Learned:
    """A schedule of ``method`` that is not known before.

    It is found by a ``search``, or, without one, chosen for a model that was trained with sampled schedules.
    """

    method: str
    search: SearchSettings | None


def make_pruning(
    schedule: Sequence[float],
    methods: str | Sequence[str | None],
    num_layers: int,
    teacher: str | None = "emission",
    count: str = "real",
    padded_length: int | None = None,
    seed: int = 0,
    student_widths: Sequence[int] = (64, 64),
) -> Pruning:
    """Check what the user asked for and put it into canonical form.

    ``methods`` is one name for all pruned layers, or one per layer (ignored where the rate is 0).

    Raises:
        UserError: a schedule of the wrong length or with an impossible rate, an unknown method, teacher or count.
    """
    rates = check_schedule(schedule, num_layers)
    names = [methods] * num_layers if isinstance(methods, str) else list(methods)
    if len(names) != num_layers:
        raise SettingError(
            "pruning_methods", f"{len(names)} methods for {num_layers} layers; give one per layer, or one"
        )
    chosen = tuple(name if rate > 0 else None for name, rate in zip(names, rates, strict=True))
    for layer, (name, rate) in enumerate(zip(chosen, rates, strict=True)):
        if rate > 0 and name not in METHODS:
            raise SettingError(
                "pruning_methods", f"unknown method {name!r} at layer {layer}; choose from {', '.join(METHODS)}"
            )
    if "student" not in chosen:
        teacher = None
    elif teacher not in TEACHERS:
        raise SettingError("teacher", unknown("teacher", teacher, TEACHERS))
    padded_length = check_count(count, padded_length)
    return Pruning(rates, chosen, teacher, count, padded_length, seed, tuple(student_widths))


def make_lstm_pruning(
    rate: float,
    method: str,
    count: str = "real",
    padded_length: int | None = None,
    seed: int = 0,
    student_widths: Sequence[int] = (),
) -> Pruning:
    """The pruning before an LSTM, as that of one layer; ``gate`` is the student's teacher.

    Raises:
        UserError: a rate that is not above 0 and below 1, an unknown method or count.
    """
    value = check_rate(rate, "target_prune_rate")
    if value == 0:
        raise SettingError("target_prune_rate", "a rate of 0 is the baseline, which runs anyway; leave it out")
    if method not in LSTM_METHODS:
        raise SettingError("pruning_methods", unknown("method", method, LSTM_METHODS))
    teacher, widths = ("gate", tuple(student_widths)) if method == "student" else (None, ())
    return Pruning((value,), (method,), teacher, count, check_count(count, padded_length), seed, widths)


def check_rate(rate: float | str, name: str, where: str = "") -> float:
    """A share of the tokens: ``0 <= rate < 1``, or a ``UserError`` about the constant ``name`` and its place in it."""
    try:
        value = float(rate)
    except (TypeError, ValueError):
        raise SettingError(name, f"{rate!r}{where} is not a number; use rates of at least 0 and below 1") from None
    if not 0 <= value < 1:  # nor is nan
        raise SettingError(name, f"rate {rate}{where} is out of range; use rates of at least 0 and below 1")
    return value


def check_count(count: str, padded_length: int | None) -> int | None:
    """The padded length where that is what is counted."""
    if count not in COUNTS:
        raise SettingError("count", unknown("counting", count, COUNTS))
    if count == "padded" and padded_length is None:
        raise SettingError("count", '"padded" needs the length that sentences were padded to (padded_length)')
    return padded_length if count == "padded" else None


def check_schedule(schedule: Sequence[float | str], num_layers: int) -> tuple[float, ...]:
    """One rate per layer, ``0 <= rate < 1``; anything else is a ``UserError`` that names the layer."""
    if isinstance(schedule, str) or not isinstance(schedule, Sequence):
        raise SettingError("pruning_schedule", f"{schedule!r} is not a list of rates; give one rate per BERT layer")
    if len(schedule) != num_layers:
        example = ",".join(["0.6"] + ["0"] * (num_layers - 1))
        raise SettingError(
            "pruning_schedule",
            f"{len(schedule)} rates for a model of {num_layers} layers; give one rate per layer, for example {example}",
        )
    return tuple(check_rate(rate, "pruning_schedule", f" at layer {layer}") for layer, rate in enumerate(schedule))


def layer_methods(name: str, schedule: Sequence[float]) -> list[str | None]:
    """``"student"`` for all pruned layers, or ``"student+random"``: one per pruned layer, in order."""
    names = name.split("+")
    pruned = sum(rate > 0 for rate in schedule)
    if len(names) == 1:
        names *= pruned
    if len(names) != pruned:
        raise SettingError(
            "pruning_methods",
            f"{name!r} names {len(names)} methods, but the schedule prunes at {pruned} layers; "
            "give one method, or one per pruned layer joined by +",
        )
    remaining = iter(names)
    return [next(remaining) if rate > 0 else None for rate in schedule]


def schedule_name(schedule: Sequence[float]) -> str:
    """A short name for files: ``[0.6, 0, 0, 0]`` -> ``"0.6-0x3"``."""
    parts: list[list] = []
    for rate in schedule:
        text = f"{rate:g}"
        if parts and parts[-1][0] == text:
            parts[-1][1] += 1
        else:
            parts.append([text, 1])
    return "-".join(text if times == 1 else f"{text}x{times}" for text, times in parts)

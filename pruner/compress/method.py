"""Methods: ways of making a trained model cheaper, behind one contract, and the registry in which they are found."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from pruner.compress.precision.csr import CsrLinear
from pruner.compress.precision.int8 import Int8
from pruner.models.flops import dense_flops
from pruner.training.context import Context
from pruner.training.stage import Recipe, Say, Stage, Trained
from pruner.utils.errors import SettingError, unknown


@dataclass(frozen=True)
class Cost:
    """What a model costs on the dev set: FLOPs of matrix products on real tokens; its parameters and their bytes."""

    flops: float
    parameters: int
    bytes: int


class Method(Recipe):
    """One way of making a trained model cheaper; by default the identity, which needs the plain fine-tuning alone.

    As a recipe it says what its own training does: ``prepare`` the model (drop layers, put on masks, set a schedule),
    ``additions`` (callbacks, parameter groups), ``collate``.
    """

    name: str  # as in ``--methods``, in records and tables
    title: str  # the same with what tables tell apart: "student of emission"
    variant: str  # what tells cells of one method apart, as tables show it: "0.6,0,0", "learned for 2x"
    label: str  # of folders; with the seed it names a cell

    def settings(self, context: Context) -> dict:
        """Return what decides the result beside ``Context.settings`` and the label."""
        return {}

    def stages(self, context: Context, dense: Stage) -> list[Stage]:
        """List the trainings whose models ``finalize`` gets; ``dense`` is the plain fine-tuning."""
        return [dense]

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        """Return what is evaluated and kept, made of the stages' models: really smaller, really int8.

        It may choose by training data, never by the dev set; ``dense`` is there to compare with.
        """
        return trained[-1].model

    def load(self, folder: Path, context: Context) -> nn.Module:
        """Load a finalized model from the folder in which it was kept."""
        return context.backbone.load(folder)

    def cost(self, model: nn.Module, context: Context) -> Cost:
        """Count what the finalized model costs, all that the method needs at inference included."""
        flops = dense_flops(context.backbone.shape(context.task, model), context.dev_lengths)
        return Cost(flops, *sizes_of(model))

    def describe(self, model: nn.Module, context: Context) -> dict:
        """Return the method's own section of the record."""
        return {}

    def examples(self, model: nn.Module, context: Context, rows: int) -> list[dict]:
        """Show what it does to the first rows of dev: ``sentence`` and the words ``kept``, if that can be shown."""
        return []


class Dense(Method):
    """The unpruned baseline: the identity."""

    name = title = label = "baseline"
    variant = "unpruned"


def dense_stage(context: Context) -> Stage:
    """Return the plain fine-tuning of a task and seed."""
    return Stage(f"{Dense.label}_seed{context.seed}", context, Dense(), context.settings(), shared=True)


def weights_of(model: nn.Module) -> list[Tensor]:
    """List a model's parameters, and those that are kept in whole numbers of 8 bits with their scales."""
    whole = [module for module in model.modules() if isinstance(module, Int8)]
    return [*model.parameters(), *(x for module in whole for x in (module.weight, *module.scales()))]


def sizes_of(model: nn.Module) -> tuple[int, int]:
    """Count a model's weights; and their bytes, with those that tell where weights stand between zeros left out."""
    weights = weights_of(model)
    places = [x for module in model.modules() if isinstance(module, CsrLinear) for x in (module.columns, module.rows)]
    return sum(x.numel() for x in weights), sum(x.nbytes for x in (*weights, *places))


@dataclass(frozen=True)
class Family:
    """Methods that are made in one way, for one kind of backbone.

    ``make(name, options, context)`` returns the methods that a run with these constants has for a task and seed under
    one of the ``names``: one for each schedule, level or budget. A ``UserError`` refuses options that cannot be. One
    that ``chains`` is given names with dots too, ``a.b``, whose first or last part is its own.
    """

    backbone: str
    names: Callable[[], Sequence[str]]  # others may be registered later
    make: Callable[[str, Namespace, Context], Sequence[Method]]
    chains: bool = False


FAMILIES: list[Family] = []


def register_method(name: str, make: Callable[[str, Namespace, Context], Sequence[Method]], backbone: str) -> None:
    """Register a single method of a kind of backbone, ``bert`` or ``lstm``."""
    FAMILIES.append(Family(backbone, lambda: [name], make))


def method_names(backbone: str) -> list[str]:
    """List the methods that a kind of backbone can be given."""
    return [name for family in FAMILIES if family.backbone == backbone for name in family.names()]


def make_methods(name: str, options: Namespace, context: Context) -> Sequence[Method]:
    """Make what ``--methods name`` asks for, or raise a ``SettingError``; ``a+b`` belongs to the family of ``a``."""
    known, parts = method_names(context.backbone.name), [part.partition("+")[0] for part in name.split(".")]
    for part in parts:
        if part not in known:
            raise SettingError("pruning_methods", unknown("method", part, known))
    for family in FAMILIES:
        able = family.backbone == context.backbone.name and (family.chains or len(parts) == 1)
        if able and any(part in family.names() for part in parts):
            return family.make(name, options, context)
    raise SettingError("pruning_methods", f"{name!r}: these cannot be joined; name them apart")

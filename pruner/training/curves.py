"""Curves of a training for TensorBoard: what ``Trainer`` logs, and the metrics on dev after each epoch."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn
from transformers.integrations import TensorBoardCallback

from pruner.utils.distributed import from_main
from pruner.utils.errors import CellError, UserError
from pruner.utils.files import cannot_write


def check_tensorboard() -> None:
    """Import tensorboard, without TensorFlow; raise a ``UserError`` if that cannot be."""
    # It would import TensorFlow, where that is installed, to write a file: seconds, memory, and pages of output. This
    # is how it can be told not to.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
    threading.excepthook = _quiet
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"tensorboard: {error}; pip install -r requirements.txt brings it, and only --tensorboard needs it"
        ) from None


def _quiet(failure: threading.ExceptHookArgs) -> None:
    """Print nothing of a thread that could not write: ``add_scalar`` raises its error in the main one."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


class Curves(TensorBoardCallback):
    """Write what one training logs into ``folder``, and the metrics after each epoch."""

    def __init__(self, folder: Path, measure: Callable[[nn.Module], dict], say: Callable[[str], None]) -> None:
        """``measure`` returns a model's metrics on dev; ``say`` prints a line where there are none."""
        check_tensorboard()
        super().__init__()
        self.folder, self.measure, self.say = folder, measure, say

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure a model in training. A failure is no reason to end the training: it returns no metrics."""
        in_mixed_precision = vars(model).pop("forward", None)  # Accelerate's, in place of the class's own
        try:
            return self.measure(model)
        except CellError as error:
            self.say(f"no metrics for TensorBoard: {error}")
            return {}
        finally:
            if in_mixed_precision:
                model.forward = in_mixed_precision

    def on_train_begin(self, args, state, control, **kwargs):
        with self._writing():
            if state.is_world_process_zero:
                # Hide what was logged from this step on before the training was interrupted or run anew.
                self.tb_writer = self._SummaryWriter(str(self.folder), purge_step=state.global_step + 1)
            super().on_train_begin(args, state, control, **kwargs)

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        metrics = from_main(lambda: self.evaluate(model))  # while the other processes wait
        self.on_log(args, state, control, {f"eval_{name}": value for name, value in metrics.items()})

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self._writing():
            super().on_log(args, state, control, logs, **kwargs)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.folder, error) from None

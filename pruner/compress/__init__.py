"""Ways of making a model cheaper; and, as a function, ``compress(model, tokenizer, texts)``.

``from pruner import compress`` names both, so that this module can be called.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruner.compress.joint.compress import Compressed


class _CallableRoom(ModuleType):
    """The module's class, as Python's data model allows it to be set."""

    def __call__(self, *args: Any, **settings: Any) -> "Compressed":
        """See ``joint.compress.compress``, which is imported when it is called."""
        from pruner.compress.joint.compress import compress

        return compress(*args, **settings)


sys.modules[__name__].__class__ = _CallableRoom

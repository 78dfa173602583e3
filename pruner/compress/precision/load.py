"""What ``precision`` in a config says of a model's modules."""

from typing import Any

from pruner.compress.precision.csr import CSR, csr_init
from pruner.compress.precision.quantise import INT8, int8_init

KNOWN = {INT8: int8_init, CSR: csr_init}


def precision_init(model: Any) -> None:
    """Give a model that has just been built of its config the modules that it has, before weights are loaded."""
    precision = getattr(model.config, "precision", None)
    if not precision:
        return
    init = KNOWN.get(str(precision.get("weights"))) if isinstance(precision, dict) else None
    if init is None:
        raise ValueError(f"precision: {precision!s:.60} is unknown; this code has {' and '.join(KNOWN)}")
    init(model, precision)

"""The methods that come with the project: importing them registers them. A new family of methods adds its line here."""

import pruner.compress.joint.families  # noqa: F401
import pruner.compress.joint.untrained  # noqa: F401
import pruner.compress.knowledge.families  # noqa: F401
import pruner.compress.precision.families  # noqa: F401
import pruner.compress.structure.families  # noqa: F401
import pruner.compress.tokens.families  # noqa: F401

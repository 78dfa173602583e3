"""Methods of compression; those that are imported here are registered."""

from pruner.compress.tokens import families as families

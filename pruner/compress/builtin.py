"""The methods that come with the project: importing them registers them. A new family of methods adds its line here."""

from pruner.compress.tokens import families as families

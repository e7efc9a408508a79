"""Version of this package."""

__version__ = "1.8.0"

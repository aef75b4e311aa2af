"""The version, in one place: read by the build, by the package and by run directories."""

__version__ = "0.1.0"

"""sdcron: declarative jobs for systemd machines."""

__version__ = "0.1.0"

"""Tests on booted machines: real systemd, one of each supported version."""

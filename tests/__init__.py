"""The tests of sdcron."""

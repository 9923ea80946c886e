"""`python3 -m sdcron` is `sdcron`."""

from sdcron.cli import main

main()

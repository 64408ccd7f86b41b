"""`python -m adaptd`."""

from adaptd.cli import main

main()

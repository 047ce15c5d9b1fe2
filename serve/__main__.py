"""`python -m serve` is `palate`."""

from serve.cli import main

main()

"""`python -m pykernels`, the same as `pykernels`."""

from pykernels.cli import main

main()

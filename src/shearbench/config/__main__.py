"""Check configuration files: ``python -m shearbench.config config/paper.yaml``."""

import sys

from shearbench.config.reading import main

main(*sys.argv[1:])

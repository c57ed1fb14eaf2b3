"""`python -m hf_tinybert`."""

import sys

from hf_tinybert.cli import main

sys.exit(main())

"""`python -m apt_peft` does what `apt-peft` does."""

import sys

from apt_peft.cli import main

sys.exit(main())

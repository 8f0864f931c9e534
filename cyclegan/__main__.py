import sys

from cyclegan.cli import main

sys.exit(main())

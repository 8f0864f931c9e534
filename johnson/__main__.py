import sys

from johnson.cli import main

sys.exit(main())

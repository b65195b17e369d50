"""python -m blocks2tokens.course.setup.site [FOLDER]"""

import sys

from blocks2tokens.course.setup.site import main

if __name__ == "__main__":
    sys.exit(main())

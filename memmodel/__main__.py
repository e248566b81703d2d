"""The program: `memmodel` and `python -m memmodel`."""

import gc

gc.disable()  # before the imports: a command ends before there is much to collect, and looking for it takes time

from memmodel.cli import main  # noqa: E402

if __name__ == "__main__":
    main()

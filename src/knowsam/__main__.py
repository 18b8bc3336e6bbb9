"""`python -m knowsam` is the command `knowsam`."""

from knowsam.cli import main

if __name__ == "__main__":
    main()

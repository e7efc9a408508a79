"""`python -m mlserver` is `mlserver`."""

from mlserver.cli import main

if __name__ == "__main__":
    main()

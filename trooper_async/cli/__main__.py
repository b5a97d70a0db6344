"""`python -m trooper_async.cli` is `trooper`."""

from trooper_async.cli import main

if __name__ == "__main__":
    main()

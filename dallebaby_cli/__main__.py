"""`python -m dallebaby_cli` (what torchrun starts) is the same program as `dallebaby`."""

from dallebaby_cli.app import main

if __name__ == "__main__":
    main()

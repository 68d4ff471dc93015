"""`python -m dallebaby_cli` (what torchrun starts) is the same program as `dallebaby`."""

if __name__ == "__main__":  # worker processes import this file too, and need none of the program
    from dallebaby_cli.app import main

    main()

"""`python -m score_sde`: the same as the command `score-sde`."""

from score_sde.cli import main

if __name__ == "__main__":
    main()

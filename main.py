"""Command line of score_sde: python main.py --config configs/ve/ncsnpp_cont.py --mode train."""

from score_sde.cli import main

if __name__ == "__main__":
    main()

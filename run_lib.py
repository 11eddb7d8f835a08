"""The modes by name, from a checkout: `run_lib.train(config, workdir)`; see `score_sde.run_lib`."""

from score_sde.run_lib import *  # noqa: F403

"""``python -m fuzz --minutes 20 --seed 0``: draw, compare, make failures smaller and print them."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

import jax


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--programs", type=int, default=None, help="stop after so many programs")
    options = parser.parse_args()
    # As in conftest.py: compiling is nearly all of the time.
    flags = "--xla_cpu_parallel_codegen_split_count=1"
    flags += " --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_disable_most_optimizations", True)
    from fuzz.campaign import Campaign

    campaign = Campaign(random.Random(options.seed))
    start = shown = time.monotonic()
    while time.monotonic() - start < 60 * options.minutes and campaign.programs != options.programs:
        campaign.one_program()
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(campaign.progress(shown - start), flush=True)
    print(campaign.summary(time.monotonic() - start))
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""What s2 costs: derivatives of s1, row by row or all at once, and networks of s2 (table 4.2).

    python benchmarks/second_order.py [--repeats 5] [--ranks 20,50,200] [--sizes 100,784]

D = 100: `Tanh` of examples/second_order_networks.py, 128 units for s1 and 32 for s2, 100 points.
D = 784: `SecondOrderUNet` of 28 x 28 pixels with 16 channels and two levels, one image; rank 0 has
the outputs of a score, and stands for s1.

    row by row   s1 once, then a reverse pass for each of the D rows, one call after the other
    jacfwd       jax.jacfwd: D forward passes in one call
    direct, r    the network of s2, which gives a diagonal and r columns

Everything runs in one process, in turns. The row loop is run once a round at D = 784. Ratios are
those of the row loop to the direct network, round by round.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

import jax
import jax.numpy as jnp
import numpy as np
from common import clock, in_turns, ratio
from second_order_networks import Tanh

from score_sde.networks.second_order import SecondOrderUNet

PUBLISHED = {
    100: "published: 32.1 ms row by row, 0.38 to 1.84 ms direct",
    784: "published: 34,600 ms row by row, 68 to 73 ms direct",
}
Network = Callable[[jax.Array], jax.Array]


def perceptron(outputs: int, hidden: int) -> Network:
    """The network of points in 100 dimensions."""
    network = Tanh(hidden, outputs)
    params = network.init(jax.random.key(0), jnp.zeros((1, 100)))
    return lambda x: network.apply(params, x)


def unet(rank: int) -> Network:
    """The network of images with 28 x 28 pixels."""
    network = SecondOrderUNet(rank, nf=16, ch_mult=(1, 2))
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.zeros(1))
    return lambda x: network.apply(params, x, jnp.zeros(len(x)))


def row_by_row(network: Network, x: jax.Array) -> Callable[[], jax.Array]:
    """d s1/dx of each sample, by a reverse pass for each row."""
    linearize = jax.jit(lambda x: jax.vjp(network, x)[1])
    d = x[0].size

    @jax.jit
    def row(pull, i):
        unit = jnp.zeros(d).at[i].set(1).reshape(1, *x.shape[1:])
        return pull(jnp.broadcast_to(unit, x.shape))[0]

    def run():
        pull = linearize(x)
        return [row(pull, i) for i in range(d)]

    return run


def all_at_once(network: Network, x: jax.Array) -> Callable[[], jax.Array]:
    """The same by `jax.jacfwd`, sample by sample in one call."""
    call = jax.jit(jax.vmap(jax.jacfwd(lambda one: network(one[None])[0])))
    return lambda: call(x)


def direct(network: Network, x: jax.Array) -> Callable[[], jax.Array]:
    """What the network of s2 gives."""
    call = jax.jit(network)
    return lambda: call(x)


def works(size: int, ranks: list[int]) -> dict[str, Callable[[], jax.Array]]:
    """What is compared at that number of dimensions."""
    if size == 100:
        x = jax.random.normal(jax.random.key(1), (100, 100))
        first = perceptron(100, 128)
        seconds = {r: perceptron(100 * (1 + r), 32) for r in ranks}
    elif size == 784:
        x = jax.random.normal(jax.random.key(1), (1, 28, 28, 1))
        first, seconds = unet(0), {r: unet(r) for r in ranks}
    else:
        raise SystemExit(f"error: --sizes takes 100 and 784; got {size}")
    made = {"row by row": row_by_row(first, x), "jacfwd": all_at_once(first, x)}
    return made | {f"direct, r = {r}": direct(network, x) for r, network in seconds.items()}


def main() -> None:
    """Measure in turns, and print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--ranks", default="20,50,200")
    parser.add_argument("--sizes", default="100,784")
    options = parser.parse_args()
    ranks, values = [int(r) for r in options.ranks.split(",")], {}
    for size in [int(size) for size in options.sizes.split(",")]:
        calls = works(size, ranks)
        for call in calls.values():
            jax.block_until_ready(call())  # compiles
        seconds = in_turns({name: clock(call) for name, call in calls.items()}, options.repeats)
        print(f"D = {size:<18}{'ms, median':>12}{'fastest':>10}{'row loop to it':>16}   rounds")
        for name, times in seconds.items():
            quotient = ratio(seconds["row by row"], times)
            span = f"{quotient['lowest']:.0f} .. {quotient['highest']:.0f}"
            print(
                f"{name:<22}{1e3 * np.median(times):>12.2f}{1e3 * times.min():>10.2f}"
                f"{quotient['median']:>16.1f}   {span}",
                flush=True,
            )
        print(PUBLISHED[size] + "\n")
        values[size] = {name: times.tolist() for name, times in seconds.items()}
    device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(json.dumps({"device": device, "repeats": options.repeats, "seconds": values}))


if __name__ == "__main__":
    main()

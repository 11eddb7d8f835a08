"""Where the published codes keep the parameters of NCSN and NCSNv2."""

from collections.abc import Iterator

from score_sde.convert.table import Entry
from score_sde.networks import NCSN, NCSNv2
from score_sde.networks.ncsn import cascades

# PyTorch counts cascades and refine blocks from 1. In the variant "256" one more, called 31, is
# listed behind 3: a cascade called after 3, but a refine block called before it.
_TORCH_NUMBERS = {"64": "1 2 3 4", "128": "1 2 3 4 5", "256": "1 2 3 31 4 5"}
_CALLED = {"64": (0, 1, 2, 3), "128": (0, 1, 2, 3, 4), "256": (0, 1, 3, 2, 4, 5)}


def table(network: NCSN | NCSNv2) -> list[Entry]:
    """Every parameter of the network, in the order of the PyTorch state dict.

    Flax names are class names with a counter in the order of calls; those of conditional layers are
    longer.
    """
    names = _Names(network)
    entries = [
        *names.conv("conv_in", "Conv_0", "begin_conv"),
        *names.norm("norm_out", 0, "normalizer"),
        *names.conv("conv_out", "Conv_1", "end_conv"),
    ]
    numbers = _TORCH_NUMBERS[network.variant].split()
    for i, (number, (_, dilation)) in enumerate(zip(numbers, cascades(network.variant))):
        for j in range(2):
            entries += names.residual_block(i, j, f"res{number}.{j}", dilation)
    for i, number in zip(_CALLED[network.variant], numbers):
        entries += names.refine_block(i, f"refine{number}", last=i == len(numbers) - 1)
    return [_under(entry, "refinenet/", "", "") for entry in entries]


def _under(entry: Entry, ours: str, flax: str, torch: str) -> Entry:
    """The same parameter, seen from a module further up."""
    return Entry(
        f"{ours}{entry.ours}", f"{flax}{entry.flax}", f"{torch}{entry.torch}", entry.layout
    )


class _Names:
    """The entries of each layer, relative to the module that holds it."""

    def __init__(self, network: NCSN | NCSNv2) -> None:
        self.conditional = isinstance(network, NCSN)

    def conv(self, ours: str, flax: str, torch: str, bias: bool = True) -> Iterator[Entry]:
        yield Entry(f"{ours}/kernel", f"{flax}/kernel", f"{torch}.weight", "conv")
        if bias:
            yield Entry(f"{ours}/bias", f"{flax}/bias", f"{torch}.bias", "vector")

    def norm(self, ours: str, counter: int, torch: str) -> Iterator[Entry]:
        if self.conditional:
            flax = f"ConditionalInstanceNorm2dPlus_{counter}/Embed_0/embedding"
            yield Entry(f"{ours}/embedding", flax, f"{torch}.embed.weight")
            return
        for name in ("alpha", "gamma", "beta"):
            flax = f"InstanceNorm2dPlus_{counter}/{name}"
            yield Entry(f"{ours}/{name}", flax, f"{torch}.{name}", "vector")

    def residual_block(
        self, cascade: int, block: int, torch: str, dilation: int
    ) -> Iterator[Entry]:
        down = cascade > 0 and block == 0
        halved = down and dilation == 1
        entries = [
            *self.conv("conv_0", "Conv_0", "conv1"),
            *self.norm("norm_1", 1, "normalize2"),
            *(
                self.conv("conv_1", "ConvMeanPool_0/Conv_0", "conv2.conv")
                if halved
                else self.conv("conv_1", "Conv_1", "conv2")
            ),
        ]
        if halved:
            flax = "ConvMeanPool_1/Conv_0"
            entries += [
                Entry("shortcut/kernel", f"{flax}/kernel", "shortcut.conv.weight", "pointwise"),
                Entry("shortcut/bias", f"{flax}/bias", "shortcut.conv.bias", "vector"),
            ]
        elif down:
            entries += self.conv("shortcut", "Conv_2", "shortcut")
        entries += self.norm("norm_0", 0, "normalize1")
        kind = "ConditionalResidualBlock" if self.conditional else "ResidualBlock"
        flax = f"{kind}_{2 * cascade + block}/"
        return (
            _under(entry, f"cascade_{cascade}_block_{block}/", flax, f"{torch}.")
            for entry in entries
        )

    def refine_block(self, block: int, torch: str, last: bool) -> Iterator[Entry]:
        prefix = "Cond" if self.conditional else ""
        inputs = 2 if block > 0 else 1
        entries: list[Entry] = []
        for i in range(inputs):
            flax = f"{prefix}RCUBlock_{i}/"
            entries += self._residual_conv(f"adapt_{i}/", flax, f"adapt_convs.{i}.", blocks=2)
        flax = f"{prefix}RCUBlock_{inputs}/"
        entries += self._residual_conv("out/", flax, "output_convs.", blocks=3 if last else 1)
        if inputs > 1:
            entries += self._convs_and_norms("fusion/", f"{prefix}MSFBlock_0/", "msf.", bias=True)
        entries += self._convs_and_norms("pooling/", f"{prefix}CRPBlock_0/", "crp.", bias=False)
        return (
            _under(entry, f"refine_{block}/", f"{prefix}RefineBlock_{block}/", f"{torch}.")
            for entry in entries
        )

    def _residual_conv(self, ours: str, flax: str, torch: str, blocks: int) -> Iterator[Entry]:
        for block in range(blocks):
            for stage in range(2):
                counter, number = 2 * block + stage, f"{block + 1}_{stage + 1}"
                entries: list[Entry] = []
                if self.conditional:
                    entries += self.norm(f"norm_{block}_{stage}", counter, f"{number}_norm")
                entries += self.conv(
                    f"conv_{block}_{stage}", f"Conv_{counter}", f"{number}_conv", bias=False
                )
                yield from (_under(entry, ours, flax, torch) for entry in entries)

    def _convs_and_norms(self, ours: str, flax: str, torch: str, bias: bool) -> Iterator[Entry]:
        entries: list[Entry] = []
        for i in range(2):
            entries += self.conv(f"conv_{i}", f"Conv_{i}", f"convs.{i}", bias)
        if self.conditional:
            for i in range(2):
                entries += self.norm(f"norm_{i}", i, f"norms.{i}")
        return (_under(entry, ours, flax, torch) for entry in entries)

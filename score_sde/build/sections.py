"""Settings of what stands beside a score model: what is trained for it, inverse problems."""

import dataclasses
from typing import Literal

from score_sde.build.entry import count, entry, interval


@dataclasses.dataclass(frozen=True)
class DequantizerSettings:
    """The flow of variational dequantization and its training."""

    filters: int = count(96, "channels of a coupling's network")
    components: int = count(32, "components of the logistic mixture")
    blocks: int = count(2, "blocks of a coupling")
    heads: int = count(4, "attention heads; 0: no attention", 0)
    couplings: int = count(4, "couplings")
    context_filters: int = count(32, "channels of the image's features")
    context_layers: int = count(3, "layers of the image's features", 0)
    context_heads: int = count(0, "attention heads of the image's features; 0: none", 0)
    mix_channels: bool = entry(True, "invertible 1x1 convolutions between couplings")
    activate_output: bool = entry(False, "activation after the last block")
    batch_size: int = count(128, "images a step, over all devices")
    steps: int = count(300_000, "optimizer updates in all")
    lr: float = entry(2e-4, "learning rate after the warm-up", above=0)
    log_every: int = interval(50, "steps between rows of metrics.jsonl", 1)
    eval_every: int = interval(5000, "steps between held-out losses; 0: never")
    checkpoint_every: int = interval(10_000, "steps between checkpoints", 1)


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """The classifier of noisy images that guides sampling, and its training."""

    depth: int = count(28, "convolutions in a row of the Wide-ResNet, 6 n + 4", 10)
    widen: int = count(10, "channels, in units of 16, 32 and 64")
    nf: int = count(128, "frequencies of the noise level's embedding")
    dropout: float = entry(0.0, "share of activations that are dropped", least=0, below=1)
    batch_size: int = count(128, "images a step, over all devices")
    steps: int = count(100_000, "optimizer updates in all")
    lr: float = entry(2e-4, "learning rate after the warm-up", above=0)
    log_every: int = interval(50, "steps between rows of metrics.jsonl", 1)
    eval_every: int = interval(5000, "steps between held-out losses; 0: never")
    checkpoint_every: int = interval(10_000, "steps between checkpoints", 1)


@dataclasses.dataclass(frozen=True)
class SecondOrderSettings:
    """The second-order score, the Hessian of log p_t, and its training."""

    form: Literal["lowrank", "diagonal", "full"] = entry(
        "lowrank", "diagonal and some columns, the diagonal alone, or a whole matrix of few pixels"
    )
    rank: int = count(20, "lowrank: columns of the factor", 0)
    prediction: Literal["covariance", "plain"] = entry(
        "covariance",
        "the covariance, which is positive semi-definite then, or the second-order score itself",
    )
    target: Literal["residual", "noise"] = entry(
        "residual",
        "fit squared errors of the denoised image, or as published of the noise, which multiplies "
        "errors of the score",
    )
    variance_reduced: bool = entry(
        False, "antithetic noise, for small noise; three evaluations in place of one"
    )
    gamma: float = entry(
        0.0, "0: the score stays as it is; else it is trained on, its loss times gamma", least=0
    )
    network: Literal["unet", "mlp"] = entry("unet", "U-Net, or perceptron for few pixels")
    nf: int = count(64, "channels of the first level; mlp: units of a hidden layer", 4)
    ch_mult: tuple[int, ...] = entry((1, 2, 2), "unet: channels of each level, in units of nf")
    blocks: int = count(1, "residual blocks of each level; mlp: hidden layers")
    noise_min: float = entry(0.0, "least sigma/alpha of training; 0: the process's", least=0)
    noise_max: float = entry(0.0, "largest sigma/alpha of training; 0: the process's", least=0)
    batch_size: int = count(128, "images a step, over all devices")
    steps: int = count(100_000, "optimizer updates in all")
    lr: float = entry(2e-4, "learning rate after the warm-up", above=0)
    log_every: int = interval(50, "steps between rows of metrics.jsonl", 1)
    eval_every: int = interval(5000, "steps between held-out losses; 0: never")
    checkpoint_every: int = interval(10_000, "steps between checkpoints", 1)


@dataclasses.dataclass(frozen=True)
class InverseSettings:
    """What --mode reconstruct measures of an image, and how it draws images that fit."""

    task: Literal["inpaint", "colorize", "superresolve", "deblur", "ct", "mar", "mri"] = entry(
        "inpaint",
        "what is measured: known pixels, grey, fewer pixels, a blurred image, line integrals, "
        "those that pass metal by, part of the Fourier transform",
    )
    std: float = entry(0.0, "noise of the measurement, for images in [0, 1]", least=0)
    model_std: float = entry(
        0.0,
        "dps, pigdm, tmpd, mmps, diffpir: what y has beyond noise, as from finer pictures or a "
        "wrong operator; solvers take it for noise",
        least=0,
    )
    images: int = count(8, "how many of config.eval.split are measured, where --input names none")
    rays: Literal["parallel", "flat", "curved"] = entry(
        "parallel", "ct, mar: parallel, or a fan on a flat or a curved detector"
    )
    views: int = count(16, "ct, mar: angles over half a turn; of a fan over a whole one")
    finer: int = count(
        1,
        "ct, mar: of so many times finer pictures, as phantoms can be drawn; 1: the images' grid",
    )
    window: Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"] = entry(
        "ramp", "fbp, li: the filter"
    )
    kspace: Literal[
        "equispaced", "random", "variable_density", "poisson_disc", "published", "mask"
    ] = entry(
        "equispaced",
        "mri: which columns or points of the Fourier transform are measured; mask: those of --mask",
    )
    acceleration: float = entry(4.0, "mri: how many times fewer they are", above=1)
    coils: int = count(1, "mri: coils around the image, whose sensitivities are simulated")
    scale: int = count(2, "superresolve: pixels of each side that become one", 2)
    filter: Literal["block_mean", "bicubic"] = entry("block_mean", "superresolve: how they do")
    kernel: Literal["gaussian", "motion"] = entry("gaussian", "deblur: the blur")
    width: float = entry(
        1.0, "deblur: standard deviation of a Gaussian, length of a motion, in pixels", above=0
    )
    angle: float = entry(0.0, "deblur: direction of a motion, in degrees")
    edges: Literal["circular", "valid"] = entry("circular", "deblur: what lies beyond the edges")
    solver: str = entry("ddnm", "how images are drawn that fit the measurement")
    guided_below: float = entry(
        10.0, "dps, pigdm, mmps, tmpd: largest sigma/alpha at which the score is guided", above=0
    )
    cg_steps: int = count(1, "mmps: steps of conjugate gradients")
    strength: float = entry(1.0, "projection: lambda of the consistency step", least=0, most=1)
    eta: float = entry(0.85, "ddnm, ddrm: share of fresh noise", least=0, most=1)
    weight: float = entry(7.0, "diffpir: weight of the denoised image", above=0)
    zeta: float = entry(
        0.0, "dps_published: step; diffpir: share of fresh noise; 0: published", least=0
    )
    jump: int = count(10, "repaint: steps of a stretch")
    resample: int = count(10, "repaint: how often a stretch is made")
    rate: float = entry(
        0.0, "score_sde, langevin: noise of the data in units of sigma; 0: published", least=0
    )
    snr: float = entry(
        0.0, "langevin, langevin_projection: size of the updates; 0: published", least=0
    )
    iterations: int = count(30, "cgls: steps of conjugate gradients")
    tv_weight: float = entry(0.001, "tv: weight of the total variation", above=0)

"""Write tests/convert/diffusers: what UNet2DModel and its schedulers of diffusers compute.

    pip install torch diffusers numpy
    python tests/convert/make_diffusers.py [--published DIRECTORY]

The weights are those of `hub.weight`. With --published the block structures of the published models
are written there instead, with fewer channels and pixels, for a check by hand.
The files here were made by diffusers 0.42.1 and PyTorch 2.13.0.
"""

import argparse
import json
import math
from pathlib import Path

import hub
import numpy as np
import torch
from diffusers import DDPMScheduler, ScoreSdeVeScheduler, UNet2DModel
from diffusers.models import embeddings

DDPM = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}
NCSNPP = {
    "center_input_sample": True,
    "mid_block_scale_factor": math.sqrt(2),
    "norm_num_groups": None,
    "time_embedding_type": "fourier",
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}
# (options, skips, size, channels of each level, levels with attention, layers)
TINY = {
    "ddpm": (DDPM, "", 8, (32, 64, 32), (1,), 2),
    "ncsnpp": (NCSNPP, "Skip", 8, (32, 128, 64), (1,), 1),
}
PUBLISHED = {
    "ddpm-cifar10-32": (DDPM, "", 32, (32, 64, 64, 64), (1,), 2),
    "ddpm-256": (DDPM, "", 64, (32, 32, 64, 64, 128, 128), (4,), 2),
    "ncsnpp-256": (NCSNPP, "Skip", 64, (64, 64, *(128,) * 5), (4,), 2),
    "ncsnpp-1024": (NCSNPP, "Skip", 128, (8, 16, 32, 64, *(128,) * 4), (6,), 1),
}


def exact_embedding(timesteps, embedding_dim, flip_sin_to_cos, downscale_freq_shift, **_):
    """Sinusoids in double precision: the library's own are in single precision always."""
    assert not flip_sin_to_cos
    half = embedding_dim // 2
    exponents = torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift)
    angles = timesteps[:, None].double() * torch.exp(-math.log(10000) * exponents)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


def model_of(options, skips, size, widths, attention, layers):
    """The network of a case with the weights of `hub`."""
    names = ["Attn" if level in attention else "" for level in range(len(widths))]
    model = UNet2DModel(
        sample_size=size,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=[f"{name}{skips}DownBlock2D" for name in names],
        up_block_types=[f"{name}{skips}UpBlock2D" for name in reversed(names)],
        **options,
    )
    state = {
        name: torch.tensor(hub.weight(name, tuple(array.shape)))
        for name, array in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def references(model, skips, size):
    """(scheduler, arrays): images, times, outputs in both precisions, scores and processes."""
    images = hub.numbers("images", (3, 3, size, size))
    if skips:
        scheduler = ScoreSdeVeScheduler(num_train_timesteps=9, sigma_max=50.0, snr=0.075)
        indices = torch.tensor([0, 4, 8])
        times, labels = scheduler.timesteps[indices], scheduler.sigmas[indices]
        images = images * labels.numpy()[:, None, None, None] + 0.5
    else:
        scheduler = DDPMScheduler()
        times = labels = torch.tensor([0, 500, 999])
    with torch.no_grad():
        single = model(torch.tensor(images), labels).sample.numpy()
        embeddings.get_timestep_embedding, kept = exact_embedding, embeddings.get_timestep_embedding
        given = labels.double() if skips else labels
        output = model.double()(torch.tensor(images).double(), given).sample.numpy()
        embeddings.get_timestep_embedding = kept
    score = output
    if not skips:
        # 1 - alphas_cumprod in single precision would err by 1e-4.
        sigma = np.sqrt(1 - np.cumprod(1 - scheduler.betas.double().numpy()))[labels.numpy()]
        score = -output / sigma[:, None, None, None]
    arrays = {"images": images, "times": times.numpy(), "labels": labels.numpy()}
    return scheduler, arrays | {"output": single, "output_f64": output, "score": score}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--published", type=Path)
    folder = parser.parse_args().published
    for name, case in (PUBLISHED if folder else TINY).items():
        model, place = model_of(*case), (folder or hub.FIXTURES) / name
        scheduler, arrays = references(model, case[1], case[2])
        model.save_config(place)
        scheduler.save_config(place)
        shapes = {name: list(array.shape) for name, array in model.state_dict().items()}
        (place / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
        np.savez_compressed(place / "arrays.npz", **arrays)
        print(name, sum(math.prod(shape) for shape in shapes.values()), "parameters")


if __name__ == "__main__":
    main()

"""Models of known architectures, small and with random weights, each with inputs that it takes."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it


class _Transformers:
    """The package, imported once a model is built: importing it takes seconds."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: getattr(import_module("transformers"), name)(
            *args, **options
        )


hf: Any = _Transformers()

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model, and the arguments of a call."""

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
IMAGE = (1, 3, 32, 32)
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


class Outputs(nn.Module):
    """A transformers model that returns its first output, as a plain tensor."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs, return_dict=False)[0]


def text(model: type, config: type, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        made = model(config(**(TEXT | options)))
        taken = {"use_cache": False} if getattr(made.config, "use_cache", False) else {}
        mask = torch.ones_like(IDS)
        return Outputs(made), (), {"input_ids": IDS, "attention_mask": mask, **taken}

    return build


def vision(model: type, config: type, side: int = 32, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        made = model(config(**options))
        return Outputs(made), (), {"pixel_values": torch.randn(1, 3, side, side)}

    return build


def t5() -> Built:
    config = hf.T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        use_cache=False,
    )
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}
    return Outputs(hf.T5ForConditionalGeneration(config)), (), given


def bart() -> Built:
    sizes = {
        f"{side}_{part}": number
        for side in ("encoder", "decoder")
        for part, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
    }
    config = hf.BartConfig(
        vocab_size=64, d_model=32, max_position_embeddings=32, use_cache=False, **sizes
    )
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}
    return Outputs(hf.BartForConditionalGeneration(config)), (), given


def whisper() -> Built:
    sizes = {
        f"{side}_{part}": number
        for side in ("encoder", "decoder")
        for part, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
    }
    config = hf.WhisperConfig(
        vocab_size=64,
        d_model=32,
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        use_cache=False,
        **sizes,
    )
    given = {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": IDS[:, :4]}
    return Outputs(hf.WhisperForConditionalGeneration(config)), (), given


def wav2vec2() -> Built:
    config = hf.Wav2Vec2Config(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return Outputs(hf.Wav2Vec2ForCTC(config)), (torch.randn(1, 400),), {}


def clip() -> Built:
    config = hf.CLIPConfig(
        text_config=TEXT | {"eos_token_id": 6, "projection_dim": 16},
        vision_config=VISION | {"projection_dim": 16},
        projection_dim=16,
    )
    given = {"input_ids": IDS, "pixel_values": torch.randn(IMAGE)}
    return Outputs(hf.CLIPModel(config)), (), given


def siglip() -> Built:
    config = hf.SiglipConfig(text_config=TEXT, vision_config=VISION)
    given = {"input_ids": IDS, "pixel_values": torch.randn(IMAGE)}
    return Outputs(hf.SiglipModel(config)), (), given


def detr() -> Built:
    backbone = hf.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage2"],
    )
    config = hf.DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=5,
    )
    return Outputs(hf.DetrForObjectDetection(config)), (torch.randn(IMAGE),), {}


class Residual(nn.Module):
    """A block of the UNets that diffusion models are."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time, self.skip = nn.Linear(16, outputs), nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.dropout(F.silu(self.norm2(y)), training=self.training))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.time = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 16)
        self.down, self.middle = Residual(16, 32), Residual(32, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.head = Residual(64, 16), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(torch.arange(8) * (-9.2 / 8))
        angles = step[:, None].float() * rates[None]
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        high = self.down(self.stem(x), time)
        low = self.middle(F.avg_pool2d(high, 2), time)
        flat = low.flatten(2).transpose(1, 2)
        low = low + self.attention(flat, flat, flat)[0].transpose(1, 2).reshape(low.shape)
        up = F.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.head(self.up(torch.cat([up, high], 1), time))


class Function(nn.Module):
    """A function with the modules that it calls."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module):
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(modules)

    def forward(self, *args: Any) -> Any:
        return self.function(self.parts, *args)


def sequential(shape: tuple[int, ...], *modules: nn.Module) -> Callable[[], Built]:
    return lambda: (nn.Sequential(*modules), (torch.randn(shape),), {})


def function(
    call: Callable[..., Any], *given: torch.Tensor, **modules: nn.Module
) -> Callable[[], Built]:
    return lambda: (Function(call, **modules), given, {})


def _conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]


class Excited(nn.Module):
    """A convolution whose channels are weighed by what they hold, as EfficientNet has it."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(*_conv(channels, channels, groups=channels))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, 4, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        y = y * self.gate(y)
        y += x
        return F.hardswish(y)


class Shuffled(nn.Module):
    """Channels in two halves, shuffled, as ShuffleNet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        y = torch.cat((left, self.branch(right)), 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().flatten(1, 2)


class Scan(nn.Module):
    """A selective state space, step by step, as Mamba has it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 64)
        self.conv = nn.Conv1d(32, 32, 4, groups=32, padding=3)
        self.select, self.step, self.out = nn.Linear(32, 18), nn.Linear(2, 32), nn.Linear(32, 16)
        self.rates = nn.Parameter(torch.arange(1.0, 9).log().repeat(32, 1))
        self.skip = nn.Parameter(torch.ones(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, gate = self.inner(x).chunk(2, -1)
        y = F.silu(self.conv(y.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step, inputs, outputs = self.select(y).split([2, 8, 8], -1)
        step = F.softplus(self.step(step))
        decay = torch.exp(step.unsqueeze(-1) * -torch.exp(self.rates))
        taken = step.unsqueeze(-1) * inputs.unsqueeze(2) * y.unsqueeze(-1)
        state, result = torch.zeros_like(taken[:, 0]), []
        for at in range(x.shape[1]):
            state = decay[:, at] * state + taken[:, at]
            result.append((state @ outputs[:, at].unsqueeze(-1)).squeeze(-1))
        y = torch.stack(result, 1) + self.skip * y
        return self.out(y * F.silu(gate))


def _recurrent(parts: nn.ModuleDict, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(part(x)[0] for part in parts.values())


def _cells(parts: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    state, cell = x.new_zeros(2, 8), x.new_zeros(2, 8)
    for at in range(x.shape[1]):
        state, cell = parts["lstm"](x[:, at], (state, cell))
        state = parts["gru"](x[:, at], state) + parts["rnn"](x[:, at], state)
    return state


def _bags(parts: nn.ModuleDict, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    wide = parts["mean"](ids, offsets) + parts["sum"](ids, offsets) + parts["max"](ids, offsets)
    return wide + parts["table"](ids[:2]) + parts["dense"](F.one_hot(ids[:2], 16).float())


def _spectrum(_: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    waves = torch.stft(x, 64, 16, window=torch.hann_window(64), return_complex=True)
    power = waves.abs().pow(2).clamp(min=1e-6).log10()
    both = torch.fft.irfft(torch.fft.rfft(x, norm="ortho"), n=x.shape[-1], norm="ortho")
    real = torch.view_as_real(torch.fft.fft2(power)).sum(-1)
    return power + real + both.mean() + torch.fft.ifft(waves).real


def _resized(_: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    modes = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    images = [F.interpolate(x, (16, 16), mode=mode) for mode in modes]
    images += [F.interpolate(x, scale_factor=1.0, mode="bilinear", align_corners=True)]
    images += [F.interpolate(x, (16, 16), mode=mode, antialias=True) for mode in modes[2:4]]
    images.append(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2))
    images.append(F.channel_shuffle(x, 2))
    line, cube = x.flatten(2), x.unsqueeze(2)
    images.append(F.interpolate(line, 256, mode="linear").view_as(x))
    images.append(F.interpolate(line, 256, mode="nearest").view_as(x))
    images.append(F.interpolate(cube, (1, 16, 16), mode="trilinear").squeeze(2))
    images.append(F.interpolate(cube, (1, 16, 16), mode="nearest").squeeze(2))
    return sum(images)


def _pooled(_: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    line, cube = x.flatten(2), x.unsqueeze(2)
    results = [
        *(F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2, ceil_mode=True), F.lp_pool2d(x, 2, 2)),
        *(F.adaptive_avg_pool2d(x, 3), F.adaptive_max_pool2d(x, 3)),
        *(F.max_pool1d(line, 2), F.avg_pool1d(line, 2), F.adaptive_avg_pool1d(line, 5)),
        *(F.max_pool3d(cube, 1), F.avg_pool3d(cube, 1), F.adaptive_avg_pool3d(cube, 1)),
        *(F.conv2d(x, x.new_ones(2, 8, 3, 3), padding="same"), F.max_pool1d(line, 3, 1, 1)),
        *(F.adaptive_max_pool1d(line, 5), F.max_pool2d(x, 2, return_indices=True)[1].float()),
    ]
    for mode in ("reflect", "replicate", "circular", "constant"):
        results += [F.pad(x, (1, 2, 1, 1), mode=mode), F.pad(line, (1, 2), mode=mode)]
    results += [F.pad(cube, (1, 1, 1, 1, 0, 0), mode="replicate")]
    return sum(each.sum() for each in results)


def _sampled(parts: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(torch.eye(2, 3)[None], [1, 8, 16, 16], align_corners=False)
    warped = F.grid_sample(x, grid, align_corners=False)
    warped = warped + F.grid_sample(x, grid, mode="nearest", padding_mode="border")
    patches = F.fold(F.unfold(x, 4, stride=4), 16, 4, stride=4)
    windows = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    return parts["up"](warped + patches + windows.roll((1, -1), (2, 3)).flip(3))


def _routed(parts: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    weight, chosen = torch.topk(parts["router"](x).softmax(-1), 2)
    weight = weight / weight.sum(-1, keepdim=True)
    mask = F.one_hot(chosen, 4).permute(2, 1, 0)
    out = torch.zeros_like(x)
    for number in range(4):
        share = (weight * mask[number].t()).sum(-1, keepdim=True)
        out = out.index_add(0, torch.arange(x.shape[0]), share * parts[str(number)](x))
    order = torch.argsort(chosen[:, 0])
    return torch.gather(out, 0, order[:, None].expand_as(out)).scatter(1, chosen, weight)


def _positions(_: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    """Masks and positions, as attention of all kinds makes them."""
    length = x.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)
    near = torch.ones(length, length, dtype=torch.bool).tril(2).logical_not()
    at = torch.arange(length)
    apart = (at[None] - at[:, None]).abs().clamp(max=4)
    slopes = torch.pow(2.0, -torch.arange(1, 5, dtype=torch.float32))
    bias = -apart[None] * slopes[:, None, None] + mask
    scores = torch.einsum("bid,bjd->bij", x, x)[:, None] / x.shape[-1] ** 0.5 + bias
    weights = scores.masked_fill(near, float("-inf")).softmax(-1)
    angles = torch.outer(at.float(), 1.0 / 10_000 ** (torch.arange(0, 8, 2) / 8))
    turned = torch.view_as_real(
        torch.view_as_complex(x.reshape(1, length, -1, 2)) * torch.polar(torch.ones(4), angles)
    )
    seen = torch.where(apart > 2, 0.0, 1.0).cumsum(-1)
    attended = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)
    masked = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], attn_mask=mask)
    return (weights @ x[:, None]) * turned.flatten(2) + seen.mean() + attended + masked


def _losses(_: nn.ModuleDict, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    one = F.one_hot(to, 8).to(x.dtype)
    return (
        F.cross_entropy(x, to)
        + F.nll_loss(x.log_softmax(-1), to)
        + F.mse_loss(x, one)
        + F.l1_loss(x, one)
        + F.smooth_l1_loss(x, one)
        + F.huber_loss(x, one)
        + F.binary_cross_entropy_with_logits(x, one)
        + F.kl_div(x.log_softmax(-1), one, reduction="batchmean")
        + F.cosine_similarity(x, one).mean()
        + F.pairwise_distance(x, one).mean()
        + torch.cdist(x, one).mean()
        + F.normalize(x).norm()
        + torch.linalg.vector_norm(x, dim=-1).sum()
    )


ACTIVATIONS = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU, nn.PReLU),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.Softplus),
    *(nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.LogSigmoid, nn.Softmin),
    *(nn.Softmax, nn.LogSoftmax, nn.GLU, nn.RReLU, nn.Threshold),
)
OPTIONS = {nn.Threshold: (0.1, 0.0), nn.Softmin: (-1,), nn.Softmax: (-1,), nn.LogSoftmax: (-1,)}


def _activations(parts: nn.ModuleDict, x: torch.Tensor) -> list[torch.Tensor]:
    return [part(x) for part in parts.values()]


UNARY = (
    *("abs", "acos", "acosh", "angle", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh"),
    *("deg2rad", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "floor", "frac", "isfinite"),
    *("isinf", "isnan", "lgamma", "log", "log10", "log1p", "log2", "logical_not", "logit"),
    *("nan_to_num", "neg", "positive", "rad2deg", "reciprocal", "round", "rsqrt", "sgn"),
    *("sigmoid", "sign", "sin", "sinc", "sinh", "sqrt", "square", "tan", "tanh", "trunc"),
)
BINARY = (
    *("add", "sub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow"),
    *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"),
    *("maximum", "minimum", "fmax", "fmin", "atan2", "hypot", "logaddexp", "rsub", "xlogy"),
)
SCALAR = ("add", "sub", "mul", "div", "floor_divide", "remainder", "fmod", "pow", "rsub")
COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
BITS = ("bitwise_and", "bitwise_or", "bitwise_xor")
REDUCED = (
    *("sum", "mean", "amax", "amin", "argmax", "argmin", "prod", "logsumexp", "var", "std"),
    *("max", "min", "any", "all", "cumsum", "cumprod", "norm", "median"),
)
WHOLE = (
    *("sum", "mean", "amax", "amin", "argmax", "argmin", "prod", "var", "std", "max", "min"),
    *("any", "all", "norm", "count_nonzero", "median"),
)


def _elementwise(_: nn.ModuleDict, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    whole = x.long()
    results = [getattr(torch, name)(x) for name in UNARY]
    results += [getattr(torch, name)(x, y) for name in BINARY]
    results += [getattr(torch, name)(x, 2) for name in (*SCALAR, *COMPARED)]
    results += [getattr(torch, name)(whole, whole + 1) for name in BITS]
    results += [getattr(torch, name)(whole, 3) for name in BITS]
    results += [whole & 1, whole | 3, whole ^ 1, ~whole, whole << 1, whole >> whole, 2**x]
    results += [(x > 0) & (y > 0), (x > 0) | (y > 0), (x > 0) ^ (y > 0)]
    results += [torch.div(x, y, rounding_mode="floor"), torch.div(x, 2, rounding_mode="trunc")]
    results += [x.clamp(-1, 1), x.clamp(x, y), x.clamp_min(0), x.clamp_max(y), x.clamp_min(y)]
    results += [x.clamp_max(1), torch.lerp(x, y, 0.5), torch.lerp(x, y, y), x.round(decimals=1)]
    results += [torch.addcmul(x, y, y), torch.addcdiv(x, y, y), torch.where(x > 0, x, y)]
    results += [x.masked_fill(y > 0, x.mean()), x.masked_fill(y > 0, 1), F.relu6(x), F.gelu(x)]
    results += [torch.isclose(x, y), torch.complex(x, y).abs(), torch.complex(x, y).imag]
    results += [
        torch.complex(x, y).conj().real,
        x.double(),
        x.new_full((2,), 1),
        x.new_empty(2) * 0,
    ]
    results += [torch.where(x > 0, 1.0, y), torch.where(x > 0, x, 1), F.gelu(x, approximate="tanh")]
    return results


def _in_place(_: nn.ModuleDict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x + 1
    x += y
    x -= y
    x *= y
    x /= y + 9
    x = x.add_(1).mul_(2).sub_(1).div_(3).clamp_(-1, 1).clamp_min_(-2).clamp_max_(2)
    x = F.elu(F.hardswish(F.hardsigmoid(x, inplace=True), inplace=True), inplace=True)
    x = x.relu_().sigmoid_().tanh_().exp_().neg_().masked_fill_(y > 0, 1)
    z = torch.zeros_like(x).copy_(x).fill_(2)
    z[0] = 1
    z[:, 1] = x[:, 0]
    z[y > 0] = 3
    z.index_add_(0, torch.tensor([0]), y[:1])
    z.scatter_(0, torch.zeros_like(y, dtype=torch.long), y)
    z.scatter_add_(0, torch.zeros_like(y, dtype=torch.long), y)
    return x + z.zero_() + F.dropout(x.clone(), inplace=True, training=False)


def _reduced(_: nn.ModuleDict, x: torch.Tensor) -> list[Any]:
    results = [getattr(x, name)(dim=-1) for name in REDUCED]
    results += [getattr(x, name)() for name in WHOLE]
    results += [
        x.softmax(0),
        x.log_softmax(0),
        x.sum((0, 1)),
        x.mean((0, 1)),
        x.aminmax(),
        x.cummax(0),
    ]
    results += [torch.var_mean(x, (0, 1)), torch.std_mean(x, 0), x.var((0, 1)), x.std(0), x.diff()]
    results += [torch.linalg.vector_norm(x), torch.linalg.norm(x), torch.linalg.matrix_norm(x)]
    results += [x.any(0), x.all(0), x.count_nonzero(0), x.norm(dim=0), x.cummin(0), x.norm(p=1)]
    results += [torch.logcumsumexp(x, 0), x.var(0, unbiased=False), x.var(correction=0)]
    return [tuple(each) if isinstance(each, tuple) else each for each in results]


def _multiplied(_: nn.ModuleDict, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    results = [x @ y.mT, x[0] @ y[0].T, x[0, 0] @ y[0, 0], x[0] @ y[0, 0], torch.bmm(x, y.mT)]
    results += [torch.einsum("bik,bjk->bij", x, y), torch.outer(x[0, 0], y[0, 0])]
    results += [torch.tensordot(x, y, ([2], [2])), torch.addmm(x[0] @ y[0].T, x[0], y[0].T)]
    results += [torch.mm(x[0], y[0].T), torch.mv(x[0], y[0, 0]), torch.dot(x[0, 0], y[0, 0])]
    results += [torch.baddbmm(x @ y.mT, x, y.mT), torch.addbmm(x[0] @ y[0].T, x, y.mT)]
    results += [torch.inner(x, y), F.linear(x, y[0]), torch.linalg.multi_dot([x[0], y[0].T])]
    results += [
        torch.addmv(x[0, :, 0], x[0], y[0, 0]),
        torch.kron(x[0], y[0]),
        torch.cross(x, y, 1),
    ]
    return results


def _shaped(_: nn.ModuleDict, x: torch.Tensor) -> list[Any]:
    results = [
        x.view(-1),
        x.reshape(4, -1),
        x.permute(2, 0, 1),
        x.transpose(0, 1),
        x[0].t(),
        x.flip(0),
    ]
    results += [
        x.squeeze(),
        x[:1].squeeze(0),
        x[:1].squeeze((0,)),
        x.unsqueeze(0),
        x.expand(2, 2, 3, 4),
    ]
    results += [
        torch.cat([x, x], 1),
        torch.stack([x, x]),
        *x.split(1),
        *x.split([1, 1]),
        *x.chunk(2, 2),
    ]
    results += [
        *x.unbind(1),
        x.select(0, 1),
        x.narrow(1, 0, 2),
        x.flatten(1),
        x.unflatten(2, (2, 2)),
    ]
    results += [x.repeat(2, 1, 1), x.tile((2,)), x.repeat_interleave(2, 1), x.roll(1, 0), x.rot90()]
    results += [
        x.movedim(0, 1),
        x.movedim((0, 1), (1, 0)),
        x.swapaxes(0, 1),
        x.swapdims(0, 1),
        x.mT,
    ]
    results += [x.unfold(2, 2, 1), x.diagonal(0, 1, 2), x[0, 0].diag(), x.diag_embed(), x.detach()]
    results += [
        x.clone(),
        x.contiguous(),
        x.to(torch.float64),
        x.type_as(x),
        x.view_as(x),
        x.float(),
    ]
    results += [x.broadcast_to(2, 2, 3, 4), *torch.broadcast_tensors(x, x[0]), x.tril(), x.triu(1)]
    results += [*torch.meshgrid(x[0, 0], x[0, 0], indexing="ij"), *x.tensor_split(2), x.ravel()]
    results += [
        torch.select_scatter(x, x[0], 0, 0),
        torch.slice_scatter(x, x[:1], 0, 0, 1),
        x[..., ::2],
    ]
    results += [
        torch.atleast_2d(x),
        torch.hstack([x, x]),
        torch.vstack([x, x]),
        torch.dstack([x, x]),
    ]
    results += [torch.column_stack([x, x]), torch.cartesian_prod(x[0, 0], x[0, 0]), x.fliplr(), x.T]
    results += [torch.block_diag(x[0], x[0]), x.view(torch.int32), x.reshape_as(x), x.expand_as(x)]
    results += [F.pad(x, (1, -1)), F.fold(F.unfold(x[None], 2), (3, 4), 2), torch.concat([x, x])]
    return results


def _indexed(_: nn.ModuleDict, x: torch.Tensor, at: torch.Tensor) -> list[Any]:
    rows = at[0]
    results = [x.gather(1, at), x.scatter(1, at, x), x.scatter(1, at, 2.0), x.scatter_add(1, at, x)]
    results += [x.scatter_reduce(1, at, x, "amax"), x[at[0]], x[:, rows], x[None, rows, rows]]
    results += [
        x.index_select(0, rows),
        x.index_add(0, rows, x[rows]),
        x.index_put((rows,), x[rows]),
    ]
    results += [x.index_fill(0, rows, 1.0), x.index_copy(0, rows, x[rows]), x.take(at)]
    results += [torch.take_along_dim(x, at, 1), F.embedding(at, x), F.one_hot(at, 4), x.topk(2)[0]]
    results += [*x.sort(descending=True), *x.sort(stable=True), x.argsort(), x.kthvalue(2)[0]]
    results += [torch.bucketize(x, x[0].sort()[0]), torch.searchsorted(x.sort()[0], x), x.msort()]
    results += [x.masked_fill(at > 0, 1), torch.tril_indices(3, 3), torch.triu_indices(3, 3)]
    results += [torch.isin(at, rows), torch.histc(x, 4), x.scatter(1, at, 1.0, reduce="multiply")]
    return results


def _made(_: nn.ModuleDict, x: torch.Tensor) -> list[torch.Tensor]:
    n = x.shape[0]
    results = [torch.arange(n), torch.arange(1, n), torch.arange(0, n, 2.0), torch.zeros(n)]
    results += [
        torch.ones(n),
        torch.full((n,), 2),
        torch.eye(n),
        torch.eye(n, n),
        torch.linspace(0, 1, n),
    ]
    results += [
        torch.zeros_like(x),
        torch.ones_like(x),
        torch.full_like(x, 2),
        torch.empty_like(x) * 0,
    ]
    results += [x.new_zeros(n), x.new_ones(n), torch.rand(n), torch.randn(n), torch.rand_like(x)]
    results += [
        torch.randn_like(x),
        torch.randint(0, 4, (n,)),
        torch.empty(n) * 0,
        torch.tensor(2.0),
    ]
    results += [torch.hann_window(n), torch.hamming_window(n), torch.bernoulli(x.sigmoid())]
    results += [torch.logspace(0, 1, n), torch.randperm(n), x.new_tensor(3.0), torch.tensor([1, 2])]
    results += [torch.randint_like(x, 4), torch.randint_like(x, 1, 4), torch.blackman_window(n)]
    return results


def _chosen(_: nn.ModuleDict, x: torch.Tensor) -> list[torch.Tensor]:
    """Sizes that depend on what is in a tensor."""
    chosen = x[x > 0]
    return [torch.nonzero(x), chosen, torch.masked_select(x, x > 0), x.masked_scatter(x > 0, x)]


def _counted(_: nn.ModuleDict, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    length = count.item()
    torch._check(length >= 1)
    torch._check(length <= x.shape[0])
    return x[:length].sum() + torch.zeros(length).sum()


HAND_WRITTEN: Mapping[str, Callable[[], Built]] = {
    "AlexNet": sequential(
        (1, 3, 64, 64),
        *(nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.LocalResponseNorm(2), nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten(), nn.Dropout()),
        *(nn.Linear(288, 16), nn.ReLU(inplace=True), nn.Linear(16, 10)),
    ),
    "MobileNet and EfficientNet": sequential(
        IMAGE, *_conv(3, 16, 2), Excited(16), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "ShuffleNet and DenseNet": sequential((1, 16, 8, 8), Shuffled(), nn.MaxPool2d(2)),
    "UNet of a diffusion model": lambda: (
        UNet(),
        (torch.randn(1, 3, 16, 16), torch.tensor([7])),
        {},
    ),
    "VAE and GAN": sequential(
        (1, 8, 4, 4),
        *(nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.InstanceNorm2d(8, affine=True)),
        *(nn.LeakyReLU(0.2, inplace=True), nn.Upsample(scale_factor=2), nn.PixelShuffle(2)),
        *(nn.ReflectionPad2d(1), nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3))),
        nn.Tanh(),
    ),
    "video CNN": sequential(
        (1, 3, 4, 8, 8),
        *(nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.MaxPool3d(2), nn.Upsample(None, 2)),
        *(nn.ConvTranspose3d(8, 4, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
    ),
    "audio CNN": sequential(
        (1, 4, 64),
        *(nn.Conv1d(4, 8, 5, dilation=2, padding="same"), nn.BatchNorm1d(8), nn.ELU()),
        *(nn.ConvTranspose1d(8, 4, 4, 2), nn.AvgPool1d(2), nn.GroupNorm(2, 4), nn.Flatten(1)),
    ),
    "LSTM, GRU and RNN": function(
        _recurrent,
        torch.randn(2, 5, 8),
        lstm=nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True),
        gru=nn.GRU(8, 8, batch_first=True),
        tanh=nn.RNN(8, 8, batch_first=True),
        relu=nn.RNN(8, 8, nonlinearity="relu", batch_first=True),
    ),
    "their cells": function(
        _cells,
        torch.randn(2, 5, 8),
        lstm=nn.LSTMCell(8, 8),
        gru=nn.GRUCell(8, 8),
        rnn=nn.RNNCell(8, 8),
    ),
    "nn.Transformer": lambda: (
        nn.Transformer(16, 4, 1, 1, 32, batch_first=True),
        (torch.randn(1, 5, 16), torch.randn(1, 4, 16)),
        {},
    ),
    "nn.TransformerEncoder": sequential(
        (1, 5, 16),
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True),
            2,
            enable_nested_tensor=False,
        ),
        nn.RMSNorm(16),
    ),
    "Mamba": lambda: (Scan(), (torch.randn(1, 6, 16),), {}),
    "recommender": function(
        _bags,
        torch.tensor([1, 5, 2, 7, 3]),
        torch.tensor([0, 2]),
        mean=nn.EmbeddingBag(16, 8, mode="mean"),
        sum=nn.EmbeddingBag(16, 8, mode="sum"),
        max=nn.EmbeddingBag(16, 8, mode="max"),
        table=nn.Embedding(16, 8, padding_idx=0),
        dense=nn.Linear(16, 8),
    ),
    "mixture of experts": function(
        _routed,
        torch.randn(6, 8),
        router=nn.Linear(8, 4),
        **{str(number): nn.Linear(8, 8) for number in range(4)},
    ),
    "spectrograms": function(_spectrum, torch.randn(1, 256)),
    "resized images": function(_resized, torch.randn(1, 8, 16, 16)),
    "pools and pads": function(_pooled, torch.randn(1, 8, 16, 16)),
    "warps and patches": function(
        _sampled, torch.randn(1, 8, 16, 16), up=nn.UpsamplingBilinear2d(scale_factor=2)
    ),
    "masks and positions": function(_positions, torch.randn(1, 6, 8)),
    "losses": function(_losses, torch.randn(4, 8), torch.tensor([1, 7, 0, 3])),
    "activations": function(
        _activations,
        torch.randn(2, 8),
        **{kind.__name__: kind(*OPTIONS.get(kind, ())) for kind in ACTIVATIONS},
    ),
    "elementwise functions": function(_elementwise, torch.rand(2, 3), torch.rand(2, 3)),
    "functions in place": function(_in_place, torch.randn(2, 3), torch.rand(2, 3)),
    "reductions": function(_reduced, torch.rand(3, 4)),
    "products": function(_multiplied, torch.randn(2, 3, 3), torch.randn(2, 3, 3)),
    "shapes": function(_shaped, torch.randn(2, 3, 4)),
    "indices": function(_indexed, torch.randn(4, 4), torch.randint(0, 4, (4, 4))),
    "tensors made": function(_made, torch.randn(4)),
    "sizes out of data": function(_chosen, torch.randn(4, 4)),
    "a length out of data": function(_counted, torch.randn(4), torch.tensor(2)),
}

TRANSFORMERS: Mapping[str, Callable[[], Built]] = {
    "BERT": text(hf.BertForSequenceClassification, hf.BertConfig),
    "RoBERTa": text(hf.RobertaForMaskedLM, hf.RobertaConfig),
    "ALBERT": text(hf.AlbertModel, hf.AlbertConfig, embedding_size=16),
    "ELECTRA": text(hf.ElectraForPreTraining, hf.ElectraConfig, embedding_size=16),
    "DeBERTa v2": text(
        hf.DebertaV2Model,
        hf.DebertaV2Config,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
    ),
    "DistilBERT": text(
        hf.DistilBertModel, hf.DistilBertConfig, dim=32, n_layers=2, n_heads=4, hidden_dim=48
    ),
    "MPNet": text(hf.MPNetModel, hf.MPNetConfig),
    "ModernBERT": text(hf.ModernBertModel, hf.ModernBertConfig, reference_compile=False),
    "GPT-2": text(hf.GPT2LMHeadModel, hf.GPT2Config, n_embd=32, n_layer=2, n_head=4),
    "GPT-NeoX": text(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig),
    "OPT": text(hf.OPTForCausalLM, hf.OPTConfig, ffn_dim=48, word_embed_proj_dim=32),
    "BLOOM": text(hf.BloomForCausalLM, hf.BloomConfig, n_head=4, n_layer=2),
    "Llama": text(hf.LlamaForCausalLM, hf.LlamaConfig, num_key_value_heads=2),
    "Mistral": text(
        hf.MistralForCausalLM, hf.MistralConfig, num_key_value_heads=2, sliding_window=4
    ),
    "Qwen2": text(hf.Qwen2ForCausalLM, hf.Qwen2Config, num_key_value_heads=2),
    "Qwen3": text(hf.Qwen3ForCausalLM, hf.Qwen3Config, num_key_value_heads=2, head_dim=8),
    "Gemma": text(hf.GemmaForCausalLM, hf.GemmaConfig, num_key_value_heads=2, head_dim=8),
    "Gemma 2": text(hf.Gemma2ForCausalLM, hf.Gemma2Config, num_key_value_heads=2, head_dim=8),
    "Phi": text(hf.PhiForCausalLM, hf.PhiConfig),
    "Mixtral": text(
        hf.MixtralForCausalLM,
        hf.MixtralConfig,
        num_key_value_heads=2,
        num_local_experts=4,
        experts_implementation="batched_mm",
    ),
    "Mamba of transformers": text(hf.MambaForCausalLM, hf.MambaConfig, state_size=8),
    "T5": t5,
    "BART": bart,
    "Whisper": whisper,
    "Wav2Vec2": wav2vec2,
    "CLIP": clip,
    "SigLIP": siglip,
    "ViT": vision(hf.ViTForImageClassification, hf.ViTConfig, **VISION),
    "DeiT": vision(hf.DeiTModel, hf.DeiTConfig, **VISION),
    "BEiT": vision(hf.BeitModel, hf.BeitConfig, use_relative_position_bias=True, **VISION),
    "DINOv2": vision(hf.Dinov2Model, hf.Dinov2Config, **VISION),
    "DINOv2 at another size": vision(hf.Dinov2Model, hf.Dinov2Config, 48, **VISION),
    "ConvNeXt": vision(
        hf.ConvNextModel, hf.ConvNextConfig, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1]
    ),
    "Swin": vision(
        hf.SwinModel,
        hf.SwinConfig,
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
    ),
    "SegFormer": vision(
        hf.SegformerForSemanticSegmentation,
        hf.SegformerConfig,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    ),
    "ResNet": vision(
        hf.ResNetForImageClassification,
        hf.ResNetConfig,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
    ),
    "RegNet": vision(
        hf.RegNetModel,
        hf.RegNetConfig,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        groups_width=4,
    ),
    "MobileNet v2": vision(hf.MobileNetV2Model, hf.MobileNetV2Config, depth_multiplier=0.25),
    "MobileViT": vision(
        hf.MobileViTModel,
        hf.MobileViTConfig,
        64,
        image_size=64,
        hidden_sizes=[16, 16, 16],
        neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
    ),
    "DETR": detr,
}

ARCHITECTURES = HAND_WRITTEN | TRANSFORMERS

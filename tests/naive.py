"""A second, plain transcription of the method: every operation in the order in which the paper describes it.

It shares the parameters of a DynamicDictionaryLearning and none of its code, so that both can be compared, gradients
included, and timed against each other. Nothing is rewritten: every level is projected and then resized, the maps are
concatenated, every pixel is projected to queries, keys and values, the softmax is spelt out, the decoder runs once
for each dictionary, and the losses one-hot encode the mask.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
CANDIDATES = 4


class NaiveD2LS(nn.Module):
    """Takes the weights of `net`, and its backbone, and computes the same outputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor | SimpleNamespace:
        options = self.net.arguments
        height, width = image.shape[-2:]
        # A multiple of 4, and at least what the backbone can take: ConvNeXt needs one cell of its deepest map.
        bottom, right = (max(-side % 4, self.net.backbone.smallest - side) for side in (height, width))
        padded = F.pad(image, (0, right, 0, bottom), mode="replicate")
        maps = self.net.backbone(padded)
        pixels = self.aggregate(maps)

        static_logits = dictionary = None
        if options["head"] == "conv":
            logits = self.conv_head(pixels)
        elif options["dictionary"] == "dynamic":
            dictionary = self.dynamic_dictionary(maps[-1])
            logits = self.decode(dictionary, pixels)
            if self.training:
                static = self.net.dictionary.table.unsqueeze(0).expand(len(image), -1, -1)
                static_logits = self.decode(static, pixels)[..., :height, :width]
        else:
            logits = self.decode(self.fixed_dictionary(image), pixels)
        logits = logits[..., :height, :width]
        if not self.training:
            return logits
        return SimpleNamespace(logits=logits, static_logits=static_logits, dictionary=dictionary)

    # 2. Aggregation

    def aggregate(self, maps: list[Tensor]) -> Tensor:
        aggregation = self.net.aggregation
        size = maps[0].shape[-2:]
        if not self.net.arguments["aggregate"]:
            return self.resize(self.project(maps[-1], aggregation.embed[0]), size)
        levels = [self.project(level, embed) for level, embed in zip(maps, aggregation.embed, strict=True)]
        deepest_first = torch.cat([self.resize(level, size) for level in reversed(levels)], dim=1)
        return F.conv2d(deepest_first, aggregation.merge.weight[:, :, None, None])

    @staticmethod
    def project(level: Tensor, linear: nn.Linear) -> Tensor:
        batch, _, height, width = level.shape
        tokens = F.linear(level.flatten(2).transpose(1, 2), linear.weight, linear.bias)
        return tokens.transpose(1, 2).reshape(batch, -1, height, width)

    @staticmethod
    def resize(level: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(level, size=size, mode="bilinear", align_corners=False)

    # 3. Dictionary

    def mixing_weights(self, deepest: Tensor) -> Tensor:
        modulator = self.net.dictionary.modulator
        embedded = self.project(deepest, modulator.embed)
        half = embedded.shape[1] // 2
        strongest = F.adaptive_max_pool2d(embedded[:, :half], 1)
        average = F.adaptive_avg_pool2d(embedded[:, half:], 1)
        branches = [
            F.conv2d(pooled, branch.weight[:, :, None, None], branch.bias)
            for pooled, branch in ((strongest, modulator.max_branch), (average, modulator.mean_branch))
        ]
        pooled = torch.cat(branches, dim=1).flatten(1)
        hidden = F.relu(F.linear(pooled, modulator.mix[0].weight, modulator.mix[0].bias))
        scores = F.linear(hidden, modulator.mix[2].weight, modulator.mix[2].bias)
        return torch.softmax(scores.reshape(len(deepest), -1, CANDIDATES), dim=-1)  # (B, N, R)

    def dynamic_dictionary(self, deepest: Tensor) -> Tensor:
        part = self.net.dictionary
        weights = self.mixing_weights(deepest)
        entries, width = part.table.shape
        rows = F.linear(part.table, part.candidates.weight, part.candidates.bias)
        rows = rows.reshape(entries * CANDIDATES, width)  # entry n owns rows 4n to 4n + 3
        mixed = torch.zeros(len(deepest), entries, width, dtype=rows.dtype, device=rows.device)
        for candidate in range(CANDIDATES):
            mixed = mixed + weights[:, :, candidate, None] * rows[candidate::CANDIDATES]
        return mixed

    def fixed_dictionary(self, image: Tensor) -> Tensor:
        options = self.net.arguments
        if options["dictionary"] == "static":
            return self.net.dictionary.table.unsqueeze(0).expand(len(image), -1, -1)
        entries = options["num_entries"] or options["num_classes"]
        value = {"ones": 1.0, "zeros": 0.0}[options["dictionary"]]
        return torch.full((len(image), entries, options["width"]), value, dtype=image.dtype, device=image.device)

    # 4. and 5. Position codes and interaction

    def decode(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        if self.net.arguments["interact"]:
            tokens, pixels = self.interact(tokens, pixels)
        return self.dictionary_head(tokens, pixels)

    def position_code(self, height: int, width: int, like: Tensor) -> Tensor:
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([columns, rows], dim=-1)  # (H, W, 2): x, then y
        phase = 2 * math.pi * ((2 * centre - 1) @ self.net.position.gaussian)
        return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(0, 1)  # (HW, C)

    def interact(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        part = self.net.interaction
        batch, channels, height, width = pixels.shape
        t, t0 = tokens, tokens
        p = pixels.flatten(2).transpose(1, 2)  # (B, HW, C)
        e = self.position_code(height, width, p)
        for stage in part.stages:
            t = self.norm(
                t + self.attention(stage.token_to_image_attn, query=t + t0, key=p + e, value=p), stage.token_norm
            )
            gathered = self.attention(stage.image_to_token_attn, query=p + e, key=t + t0, value=t)
            p = self.norm(p + gathered, stage.image_to_token_attn.norm)
        t = self.norm(t + self.attention(part.final_attn, query=t + t0, key=p + e, value=p), part.final_norm)
        return t, p.transpose(1, 2).reshape(batch, channels, height, width)

    @staticmethod
    def attention(part: nn.Module, *, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q = F.linear(query, part.query.weight, part.query.bias)
        k = F.linear(key, part.key.weight)  # a bias of the keys adds the same to every score of a query
        v = F.linear(value, part.value.weight, part.value.bias)
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, length, C/16)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        read = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)
        return F.linear(read, part.output.weight, part.output.bias)

    @staticmethod
    def norm(x: Tensor, part: nn.Module) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], part.weight, part.bias, eps=1e-5)

    # 6. Head

    def upsample(self, pixels: Tensor) -> Tensor:
        norm = self.net.head.upsampler.norm
        x = F.pixel_shuffle(pixels, 2)
        x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], norm.weight, norm.bias, eps=1e-6).permute(0, 3, 1, 2)
        return F.gelu(F.pixel_shuffle(F.gelu(x), 2))  # (B, C/16, H, W)

    def dictionary_head(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        head = self.net.head
        first, second, third = (head.token_mlp[i] for i in (0, 2, 4))
        t = F.relu(F.linear(tokens, first.weight, first.bias))
        t = F.relu(F.linear(t, second.weight, second.bias))
        t = F.linear(t, third.weight, third.bias)  # (B, N, C/16)
        if t.shape[1] != self.net.arguments["num_classes"]:
            mapping = head.entries_to_classes
            t = F.linear(t.transpose(1, 2), mapping.weight, mapping.bias).transpose(1, 2)  # (B, K, C/16)
        return torch.einsum("bkc,bchw->bkhw", t, self.upsample(pixels))

    def conv_head(self, pixels: Tensor) -> Tensor:
        classify = self.net.head.classify
        return F.conv2d(self.upsample(pixels), classify.weight[:, :, None, None], classify.bias)


# Losses


def naive_loss(output: Any, mask: Tensor, ignore_index: int) -> Tensor:
    """The training objective with its weights: main, auxiliary and contrastive term."""
    logits = in_single_precision(output.logits)
    total = soft_cross_entropy(logits, mask, ignore_index) + dice(logits, mask, ignore_index)
    if output.static_logits is not None:
        total = total + 0.4 * soft_cross_entropy(in_single_precision(output.static_logits), mask, ignore_index)
    if output.dictionary is not None:
        total = total + contrastive(in_single_precision(output.dictionary))
    return total


def in_single_precision(x: Tensor) -> Tensor:
    """At least: sums over an image do not fit into half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def soft_cross_entropy(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    log_p = F.log_softmax(logits, dim=1)
    ignored = (mask == ignore_index).unsqueeze(1)
    nll = -log_p.gather(1, mask.unsqueeze(1).masked_fill(ignored, 0)).masked_fill(ignored, 0)
    smooth = -log_p.sum(dim=1, keepdim=True).masked_fill(ignored, 0)
    return (1 - 0.05) * nll.mean() + 0.05 / logits.shape[1] * smooth.mean()


def dice(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    classes = logits.shape[1]
    kept = (mask != ignore_index).unsqueeze(1)
    p = torch.softmax(logits, dim=1) * kept
    truth = F.one_hot(mask.masked_fill(mask == ignore_index, 0), classes).permute(0, 3, 1, 2) * kept
    overlap, sizes = (p * truth).sum(dim=(0, 2, 3)), (p + truth).sum(dim=(0, 2, 3))
    scores = (2 * overlap + 0.05) / (sizes + 0.05).clamp(min=1e-7)
    return ((1 - scores) * (truth.sum(dim=(0, 2, 3)) > 0)).mean()


def contrastive(dictionary: Tensor) -> Tensor:
    if len(dictionary) == 1:
        return dictionary.sum() * 0
    means = dictionary.mean(dim=0)
    intra = (dictionary - means).square().sum(dim=-1).mean()
    first, second = torch.triu_indices(len(means), len(means), offset=1)
    return intra / ((means[first] - means[second]).square().sum(dim=-1).mean() + 1e-6)

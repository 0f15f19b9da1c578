"""The network on its device and in its precision, as plain functions of images."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from d2ls.data.sets.facts import Views
from d2ls.errors import ConfigError, DataError
from d2ls.inference.sliding_window import Windows, segment_images, segment_windows
from d2ls.inference.tta import Model, mean_logits

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Lightning's names, and the type that autocast computes in."""

_MOST_VIEWS = {"cpu": 1}  # of one size at once, by device; elsewhere the eight flips and rotations


class Classes:
    """The class of each pixel of an image, (H, W), on its way from the device, and whether all logits were finite."""

    def __init__(self, indices: Tensor, finite: Tensor) -> None:
        # From a GPU into pinned memory, while the host goes on; the event tells when they are there.
        self._indices, self._finite = (values.to("cpu", non_blocking=values.is_cuda) for values in (indices, finite))
        self._copied = torch.cuda.Event() if indices.is_cuda else None
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(indices.device))

    def get(self) -> Tensor:
        """Class indices, uint8 (H, W) on the CPU; waits until they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        if not self._finite:
            raise DataError(
                "the network gives logits that are no finite numbers: the checkpoint is damaged, or the precision "
                "too low (try --precision 32-true)."
            )
        return self._indices


Segment = Callable[[Tensor], list[Classes]]
"""The classes of each of normalised images, float32 (B, 3, H, W)."""


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is the accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda, cuda:1, mps.") from error
    here = {"cpu"} | ({accelerator.type} if accelerator else set())
    if device.type not in here or (device.index or 0) >= (torch.accelerator.device_count() if accelerator else 1):
        raise ConfigError(f"--device {name}: not on this machine, which has {', '.join(sorted(here))}.")
    return device


def check_precision(name: str | int) -> str:
    """One of PRECISIONS; 32 means 32-true."""
    name = "32-true" if str(name) == "32" else str(name)
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name}: testing knows {', '.join(PRECISIONS)}. Choose one with --precision.")
    return name


class Network:
    """A network in evaluation, in one of PRECISIONS: float32 logits of images from the CPU.

    `channels_last` keeps images and maps in NHWC memory order; `compiled` compiles the network with torch.compile when
    it is first called, again for further sizes.
    """

    def __init__(
        self, net: nn.Module, device: torch.device, precision: str, *, channels_last: bool = False,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.eval().to(device).to(memory_format=self.memory_format)
        if compiled:
            self.net.compile()
        self.device = device
        self.dtype = PRECISIONS[precision]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits, (B, K, H, W) on the device, of images (B, 3, H, W)."""
        images = to_device(images, self.device).contiguous(memory_format=self.memory_format)
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return self.net(images).float()


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Images on a device; to a GPU they are copied from pinned memory, beside whatever it still computes."""
    if device.type == "cuda" and images.device.type == "cpu":
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


class OnDevice(Protocol):
    """Logits (B, K, H, W) of images (B, bands, H, W) that lie on its device."""

    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        """The logits."""


def views_at_once(network: OnDevice, views: Views, tta_batch: int | None) -> Model:
    """The mean of the logits over all views of images, `tta_batch` views of one size as one batch.

    None ("auto") takes one at a time on a CPU, which gains nothing from more, and elsewhere all of one size, half as
    many whenever they do not fit into the memory.
    """
    fitting: dict[torch.Size, int] = {}

    def model(images: Tensor) -> Tensor:
        images = to_device(images, network.device)
        at_once = tta_batch or fitting.get(images.shape) or _MOST_VIEWS.get(network.device.type, 8)
        while True:
            try:
                return mean_logits(network, images, views, at_once)
            except torch.OutOfMemoryError:
                if tta_batch is not None or at_once == 1:
                    raise
            at_once = fitting[images.shape] = at_once // 2  # outside of the handler, which holds the tensors
            torch.cuda.empty_cache()

    return model


def whole_images(network: Network, views: Views, tta_batch: int | None, num_classes: int) -> Segment:
    """Segments images whole, by the mean of their views; arguments as of `views_at_once`."""
    model = views_at_once(network, views, tta_batch)
    return lambda images: [classes_of(logits, num_classes) for logits in model(images)]


def by_windows(
    network: Network, views: Views, tta_batch: int | None, num_classes: int, windows: Windows, batch: int
) -> Segment:
    """Segments frames window by window, each by the mean of its views; `batch` windows at once, others as above."""
    model = views_at_once(network, views, tta_batch)

    return lambda frames: [classes_of(segment_windows(model, frame, windows, batch), num_classes) for frame in frames]


def views_by_windows(network: Network, views: Views, num_classes: int, windows: Windows, batch: int) -> Segment:
    """Segments images by the mean of their views, each of which is cut into windows after it was resized.

    So the network sees windows of one size at every scale, as it saw crops of one size in training. Images are not
    padded, and those no larger than a window stay whole. The network gets `batch` windows at once.
    """
    model = partial(segment_images, network, windows=windows, batch=batch)

    def segment(images: Tensor) -> list[Classes]:
        each = to_device(images, network.device).split(1)
        return [classes_of(mean_logits(model, image, views)[0], num_classes) for image in each]

    return segment


@torch.inference_mode()
def classes_of(logits: Tensor, num_classes: int) -> Classes:
    """The class of each pixel, of logits or probabilities (K, H, W)."""
    if len(logits) != num_classes:
        raise ConfigError(f"the network gives {len(logits)} classes, the data set has {num_classes}.")
    best = logits.amax(dim=0)
    finite = torch.stack(torch.aminmax(best)).isfinite().all()
    # The first class that reaches the maximum: a fifth of the time of the maximum's own int64 indices.
    classes = torch.zeros_like(best, dtype=torch.uint8)
    undecided = torch.ones_like(best, dtype=torch.bool)
    for plane in logits[:-1]:
        undecided &= plane != best
        classes += undecided
    return Classes(classes, finite)

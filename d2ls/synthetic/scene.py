"""A drawn scene as a whole."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2ls.synthetic.canvas import Canvas, add_texture, photograph
from d2ls.synthetic.painting import paint_things
from d2ls.synthetic.site import Site, Thing
from d2ls.synthetic.town import build_town


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and what is known about it.

    Attributes:
        image: RGB, (H, W, 3).
        mask: class indices of Vaihingen (`canvas.Label`), (H, W).
        material: what each pixel is made of (`canvas.Material`), (H, W).
        things: what stands there, in pixel coordinates.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    material: NDArray[np.uint8]
    things: list[Thing]


def compose(size: int | tuple[int, int], seed: int, *, scale: float = 1.0) -> Scene:
    """Draw a scene with everything that is known about it; arguments as `draw_scene`."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1 or not scale > 0:
        raise ValueError(f"size is {size} and scale {scale}; expected sides of at least 1 px and a scale above 0")
    rng = np.random.default_rng(seed)
    canvas = Canvas(height, width)
    site = Site(rng, canvas, scale)
    build_town(site)
    paint_things(canvas, site.things, rng)
    image = photograph(add_texture(canvas, rng), rng)
    return Scene(image=image, mask=canvas.mask, material=canvas.material, things=site.things)


def draw_scene(
    size: int | tuple[int, int], seed: int, *, scale: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw an aerial scene in natural colours, seen straight from above, with its exact labels.

    Mean shares of the classes in scenes of 256 px or more: a third impervious surface, a quarter low vegetation,
    a fifth buildings, a seventh trees, 2 % cars, 3 % clutter. Shadows and texture change the picture, never the labels.

    Args:
        size: side of a square, or height and width, in pixels.
        seed: the same seed gives the same scene.
        scale: 1 makes a pixel about 25 cm (a car is 18 x 8 px), 0.5 makes it 50 cm.

    Returns:
        RGB (H, W, 3) and class indices of Vaihingen (H, W): 0 ImSurf, 1 Building, 2 LowVeg, 3 Tree, 4 Car, 5 Clutter.

    Raises:
        ValueError: a side below 1 px, or a scale that is not positive.
    """
    scene = compose(size, seed, scale=scale)
    return scene.image, scene.mask

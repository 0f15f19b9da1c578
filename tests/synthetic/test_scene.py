"""Drawn scenes: deterministic, of plausible composition, with labels that follow the picture and not the light."""

import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from sklearn.tree import DecisionTreeClassifier

from d2ls.data.sets.isprs import CLASSES
from d2ls.synthetic import draw_scene
from d2ls.synthetic.canvas import Canvas, Label, Material
from d2ls.synthetic.scene import Scene, compose
from d2ls.synthetic.site import Thing


@pytest.fixture(scope="module")
def twenty() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_scene(256, seed) for seed in range(20)]


def _cars(scene: Scene) -> list[Thing]:
    return [thing for thing in scene.things if thing.kind == "car"]


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_labels_are_those_of_the_isprs_classes():
    names = [label.name.replace("_", "").lower() for label in Label]
    assert names == [name.lower() for name in CLASSES]
    assert [int(label) for label in Label] == list(range(6))


@settings(deadline=None, max_examples=12)
@given(height=st.integers(1, 140), width=st.integers(1, 140), seed=st.integers(0, 2**32 - 1))
def test_any_size_is_drawn_the_same_twice_and_wholly_labelled(height, width, seed):
    image, mask = draw_scene((height, width), seed)
    assert image.shape == (height, width, 3)
    assert image.dtype == mask.dtype == np.uint8
    assert mask.shape == (height, width)
    assert mask.max() <= 5
    assert _digest(image, mask) == _digest(*draw_scene((height, width), seed))


def test_seeds_give_different_scenes(twenty):
    assert len({_digest(image) for image, _ in twenty}) == len(twenty)
    assert len({_digest(mask) for _, mask in twenty}) == len(twenty)


def test_drawing_leaves_numpys_global_generator_alone():
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    draw_scene(64, 1)
    assert np.random.random() == expected


def test_class_shares_are_plausible(twenty):
    shares = np.array([np.bincount(mask.ravel(), minlength=6) / mask.size for _, mask in twenty])
    low = np.array([0.20, 0.15, 0.20, 0.10, 0.01, 0.02])
    high = np.array([0.36, 0.30, 0.30, 0.20, 0.03, 0.05])
    assert ((shares.mean(axis=0) >= low) & (shares.mean(axis=0) <= high)).all(), shares.mean(axis=0)
    assert (shares > 0.002).all(axis=1).mean() >= 0.9  # nearly every scene holds every class
    assert shares.max() < 0.6


def test_shadows_and_texture_change_the_picture_but_no_label(monkeypatch):
    image, mask = draw_scene(160, 3)
    monkeypatch.setattr(Canvas, "shade", lambda *args, **options: None)
    bright, same = draw_scene(160, 3)
    np.testing.assert_array_equal(mask, same)
    changed = (image.astype(int) - bright).sum(axis=2)
    assert (changed < -60).mean() > 0.02  # shadows fell
    assert (changed > 20).mean() < 0.001  # and only darken


def test_what_is_painted_is_what_is_labelled():
    canvas = Canvas(60, 80)
    canvas.polygon([[10, 10], [50.5, 14], [46, 40.25], [12, 35]], (200, 100, 50), Label.BUILDING, Material.TILES)
    canvas.discs(np.array([[60.0, 40.0], [66.0, 44.0]]), np.array([9.0, 6.5]), [(40, 90, 40), (50, 90, 40)], Label.TREE)
    painted = canvas.image.max(axis=2) > 0
    labelled = canvas.mask > 0
    edge = cv2.morphologyEx(labelled.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    np.testing.assert_array_equal(painted[~edge], labelled[~edge])
    assert set(np.unique(canvas.mask)) == {0, 1, 3}


def test_every_car_that_nothing_hides_is_labelled_where_it_stands():
    scene = compose(256, 7)
    shown = 0
    for car in _cars(scene):
        x, y = np.rint(car.outline.mean(axis=0)).astype(int)
        if 0 <= x < 256 and 0 <= y < 256 and scene.mask[y, x] != Label.TREE:
            assert scene.mask[y, x] == Label.CAR
            shown += 1
    assert shown >= 5


def test_cars_are_large_enough_for_a_stride_of_four():
    sides = []
    for seed in range(5):
        for car in _cars(compose(256, seed)):
            sides.append(sorted(np.hypot(*(car.outline[1:3] - car.outline[:2]).T)))
    shorts, longs = np.median(np.array(sides), axis=0)
    assert 16 <= longs <= 20
    assert 7 <= shorts <= 9


def test_scale_makes_everything_smaller():
    cars = [_cars(compose(128, seed, scale=0.5)) for seed in range(4)]
    lengths = [np.hypot(*(car.outline[1:3] - car.outline[:2]).T).max() for scene in cars for car in scene]
    assert 7 <= np.median(lengths) <= 11


def test_colour_alone_tells_the_classes_only_in_part(twenty):
    """A tree on RGB is far better than chance and far from good: shape and surroundings matter."""
    rng = np.random.default_rng(0)

    def pixels(scenes: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        x = np.concatenate([image.reshape(-1, 3) for image, _ in scenes])
        y = np.concatenate([mask.ravel() for _, mask in scenes])
        chosen = rng.choice(len(y), 40_000, replace=False)
        return x[chosen], y[chosen]

    tree = DecisionTreeClassifier(max_depth=12, min_samples_leaf=20, class_weight="balanced", random_state=0)
    tree.fit(*pixels(twenty[:14]))
    x, y = pixels(twenty[14:])
    score = f1_score(y, tree.predict(x), labels=range(5), average="macro")
    chance = f1_score(y, rng.permutation(y), labels=range(5), average="macro")
    assert chance + 0.10 < score < 0.8, (chance, score)


@pytest.mark.parametrize(("size", "scale"), [(0, 1.0), ((5, -1), 1.0), (8, 0.0), (8, float("nan"))])
def test_impossible_sizes_are_refused(size, scale):
    with pytest.raises(ValueError, match="expected sides of at least 1 px"):
        draw_scene(size, 0, scale=scale)

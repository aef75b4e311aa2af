"""Pictures and sentences of eight things: a small data set, drawn and worded by code.

``draw("train", 12)`` and ``draw("test", 6)`` share nothing but the things themselves. Test pictures
have other colours, sizes, places and tilts, and test sentences other nouns in other frames.
Pictures and sentences are no pairs: row i of one is not about row i of the other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIZE = 224  # pixels a side
TWICE = 2 * SIZE  # drawn at twice the size, then reduced, which smooths the edges

Point = tuple[float, float]


class Drawn(NamedTuple):
    """Pictures and sentences, and what each of them is of, in order of ``THINGS``."""

    pictures: list[Image.Image]
    picture_labels: np.ndarray
    sentences: list[str]
    sentence_labels: np.ndarray


class Pen:
    """Draws in a unit square that lies somewhere in the picture, scaled, tilted and mirrored."""

    def __init__(self, image: Image.Image, centre: Point, side: float, tilt: float, flip: bool):
        self.draw = ImageDraw.Draw(image)
        self.centre, self.side, self.flip = centre, side, flip
        self.cos, self.sin = math.cos(tilt), math.sin(tilt)

    def area(self, colour: str, *points: Point) -> None:
        placed = []
        for x, y in points:
            x, y = (0.5 - x if self.flip else x - 0.5), y - 0.5
            x, y = x * self.cos - y * self.sin, x * self.sin + y * self.cos
            placed.append(
                tuple(c + self.side * p for c, p in zip(self.centre, (x, y), strict=True))
            )
        self.draw.polygon(placed, fill=colour)

    def box(self, colour: str, left: float, top: float, right: float, bottom: float) -> None:
        self.area(colour, (left, top), (right, top), (right, bottom), (left, bottom))

    def oval(self, colour: str, x: float, y: float, across: float, down: float = 0.0) -> None:
        """Around (x, y), with these half axes; a circle if there is only one."""
        turns = [2 * math.pi * i / 48 for i in range(48)]
        down = down or across
        self.area(colour, *((x + across * math.cos(t), y + down * math.sin(t)) for t in turns))


def house(pen: Pen, wall: str, roof: str) -> None:
    pen.box(roof, 0.68, 0.08, 0.78, 0.4)
    pen.box(wall, 0.15, 0.42, 0.85, 0.95)
    pen.area(roof, (0.05, 0.45), (0.5, 0.05), (0.95, 0.45))
    pen.box("#5b3a21", 0.43, 0.62, 0.57, 0.95)
    for left in (0.22, 0.64):
        pen.box("#e8f4ff", left, 0.56, left + 0.14, 0.72)


def tree(pen: Pen, crown: str, fruit: str) -> None:
    pen.area("#6b4423", (0.44, 0.5), (0.56, 0.5), (0.6, 1.0), (0.4, 1.0))
    for x, y, r in ((0.3, 0.42, 0.2), (0.7, 0.42, 0.2), (0.5, 0.25, 0.24), (0.5, 0.48, 0.22)):
        pen.oval(crown, x, y, r)
    for x, y in ((0.28, 0.4), (0.5, 0.2), (0.7, 0.45), (0.48, 0.5)):
        pen.oval(fruit, x, y, 0.03)


def boat(pen: Pen, hull: str, sail: str) -> None:
    pen.box("#4a3520", 0.48, 0.02, 0.52, 0.72)
    pen.area(sail, (0.55, 0.05), (0.55, 0.66), (0.95, 0.66))
    pen.area("#f7f3e8", (0.45, 0.14), (0.45, 0.66), (0.12, 0.66))
    pen.area(hull, (0.02, 0.72), (0.98, 0.72), (0.8, 0.95), (0.2, 0.95))


def fish(pen: Pen, body: str, fin: str) -> None:
    pen.area(fin, (0.25, 0.5), (0.0, 0.25), (0.05, 0.5), (0.0, 0.75))
    pen.area(fin, (0.4, 0.3), (0.6, 0.1), (0.7, 0.32))
    pen.oval(body, 0.57, 0.5, 0.41, 0.24)
    pen.area(fin, (0.5, 0.52), (0.36, 0.6), (0.5, 0.64))
    pen.oval("white", 0.8, 0.43, 0.055)
    pen.oval("black", 0.81, 0.43, 0.028)


def flower(pen: Pen, petal: str, heart: str) -> None:
    pen.box("#3d7a2a", 0.48, 0.4, 0.52, 1.0)
    pen.oval("#3d7a2a", 0.62, 0.76, 0.12, 0.05)
    for i in range(8):
        turn = 2 * math.pi * i / 8
        pen.oval(petal, 0.5 + 0.2 * math.cos(turn), 0.32 + 0.2 * math.sin(turn), 0.105)
    pen.oval(heart, 0.5, 0.32, 0.12)


def car(pen: Pen, body: str, hub: str) -> None:
    pen.area(body, (0.22, 0.5), (0.34, 0.28), (0.68, 0.28), (0.8, 0.5))
    pen.area("#dff1fa", (0.29, 0.48), (0.37, 0.32), (0.49, 0.32), (0.49, 0.48))
    pen.area("#dff1fa", (0.53, 0.48), (0.53, 0.32), (0.65, 0.32), (0.73, 0.48))
    pen.box(body, 0.03, 0.48, 0.97, 0.68)
    for x in (0.24, 0.76):
        pen.oval("#222222", x, 0.7, 0.12)
        pen.oval(hub, x, 0.7, 0.055)


def snowman(pen: Pen, hat: str, scarf: str) -> None:
    for y, r in ((0.79, 0.21), (0.5, 0.16), (0.28, 0.12)):
        pen.oval("#c3ccd6", 0.5, y, r)
        pen.oval("#fbfdff", 0.49, y - 0.01, r - 0.015)
    pen.box(hat, 0.36, 0.17, 0.64, 0.21)
    pen.box(hat, 0.41, 0.02, 0.59, 0.18)
    pen.box(scarf, 0.4, 0.36, 0.6, 0.41)
    pen.area("#f08020", (0.5, 0.27), (0.5, 0.31), (0.66, 0.3))
    for x, y in ((0.45, 0.25), (0.54, 0.25), (0.5, 0.5), (0.5, 0.58), (0.5, 0.75)):
        pen.oval("black", x, y, 0.017)


def cup(pen: Pen, side: str, stripe: str) -> None:
    turns = [math.pi * (i / 24 - 0.5) for i in range(25)]
    outer = [(0.68 + 0.25 * math.cos(t), 0.55 + 0.22 * math.sin(t)) for t in turns]
    inner = [(0.68 + 0.15 * math.cos(t), 0.55 + 0.13 * math.sin(t)) for t in reversed(turns)]
    pen.area(side, *outer, *inner)
    pen.area(side, (0.12, 0.25), (0.72, 0.25), (0.66, 0.92), (0.18, 0.92))
    pen.box(stripe, 0.155, 0.5, 0.685, 0.6)
    pen.oval("#3b2314", 0.42, 0.25, 0.3, 0.06)


class Thing(NamedTuple):
    draw: Callable[[Pen, str, str], None]
    train_words: str  # twelve lines; no test line has their nouns
    test_words: str  # six lines


THINGS = {
    "house": Thing(
        house,
        """a house
        a cottage with two windows
        a building with a chimney
        a villa on a hill
        a bungalow for rent
        four walls and a roof
        the place where we sleep
        a small hut
        a mansion with a big gate
        a lodge for holidays
        the address of my parents
        a block of flats""",
        """a farmhouse
        somebody's home
        a chalet in the mountains
        real estate for sale
        the residence of our neighbours
        a cabin with a front porch""",
    ),
    "tree": Thing(
        tree,
        """a tree
        an oak in summer
        an apple where it grew
        a trunk and its branches
        a plant taller than us
        the edge of the forest
        a beech with all its leaves
        a birch by the road
        wood before it is sawn
        a cherry full of fruit
        a lime that gives shade
        a fir for Christmas""",
        """a chestnut in an orchard
        a leafy maple
        a willow in the park
        an old elm and its roots
        foliage that turns red in autumn
        a pine that nobody felled""",
    ),
    "boat": Thing(
        boat,
        """a boat
        a ship with two sails
        a mast and a hull
        a sailing vessel in a storm
        a cutter in the harbour
        a little craft on the waves
        the captain's pride
        a sloop at anchor
        a catamaran with its crew
        ready for a voyage across the ocean
        a canoe with a paddle
        a ferry to the island""",
        """a yacht
        a dinghy in the regatta
        a schooner leaving port
        a sailor's old ketch
        a windjammer off the coast
        what Columbus crossed the Atlantic in""",
    ),
    "fish": Thing(
        fish,
        """a fish
        a goldfish in its bowl
        a trout in the river
        an animal that swims under water
        fins and gills
        a shark with sharp teeth
        a perch on the hook
        scales from head to tail
        a cod for dinner
        a pike among the reeds
        a swarm of sardines
        pets for an aquarium""",
        """a salmon jumping upstream
        a carp in the pond
        a net of fresh herring
        tuna for sushi
        a mackerel that an angler landed
        seafood at the market""",
    ),
    "flower": Thing(
        flower,
        """a flower
        a daisy with eight petals
        a blossom on its stem
        a sunflower
        a poppy in the field
        what the florist sells
        a bouquet of lilies
        a carnation for the buttonhole
        a violet in a pot
        seeds that sprouted and bloomed
        where bees collect nectar
        a dahlia""",
        """a tulip
        the first crocus of spring
        a marguerite for the vase
        an orchid as a gift
        buds about to open
        a meadow of buttercups""",
    ),
    "car": Thing(
        car,
        """a car
        a vehicle on four wheels
        an automobile
        a motor and a steering wheel
        something to drive to work
        a limousine
        a van in the street
        a convertible on the motorway
        traffic on the road
        tyres that need air
        a saloon of the seventies
        the second lane was blocked by a lorry""",
        """a taxi
        a jeep in the parking lot
        a hatchback out of petrol
        an estate that seats five
        a racing driver's Ferrari
        a garage and what stands in it""",
    ),
    "snowman": Thing(
        snowman,
        """a snowman
        a man of snow with a hat
        a figure rolled by children in January
        a chilly fellow
        three white balls with buttons
        a statue that melts in the sun
        a guest with a carrot for a nose
        fun in the cold
        coal for eyes and sticks for arms
        a sculpture of snow in the yard
        ice and snow with a scarf
        the snow has been made into a person""",
        """some snowballs on top of each other
        our winter visitor
        Frosty
        it thaws, so he is getting thin
        a frozen gentleman in his bowler
        built after the snowfall""",
    ),
    "cup": Thing(
        cup,
        """a cup
        tea with milk
        a mug with a stripe
        crockery with a handle
        porcelain on a saucer
        a hot drink
        a pot for a brew
        a sip of chocolate
        china from the cupboard
        a glass to drink from
        a pause with a cappuccino
        earthenware for the kitchen""",
        """an espresso
        a beaker of cocoa
        coffee for breakfast
        a warm beverage
        a tumbler and a spoon
        Earl Grey at five o'clock""",
    ),
}
NAMES = tuple(THINGS)

FRAMES = {
    "train": ("a picture of: {}", "{}", "this shows {}", "{}, in the middle"),
    "test": ("my daughter's drawing: {}", "can you make out {}?", "{}, seen from afar"),
}
COLOURS = {
    "train": ("#d62828", "#1d6fb8", "#f2b705", "#6a3fa0", "#2a9d5c", "#e76f9a"),
    "test": ("#8c1c5b", "#0f8f9c", "#ef7b21", "#4050c8", "#7a8f1c", "#a3522b"),
}
GROUNDS = {
    "train": ("#f4efe3", "#cfe8f5", "#dbeccb", "#f8d9c8"),
    "test": ("#e6dcf2", "#d3d9de", "#f6f0b8", "#bfe3da"),
}
# Of the picture's side. Test things are smaller or larger than any of training.
SIDES = {"train": ((0.5, 0.7),), "test": ((0.36, 0.48), (0.72, 0.84))}
TILTS = {"train": ((-6, 6),), "test": ((-14, -8), (8, 14))}  # degrees


def draw(split: str, rows: int, seed: int = 0) -> Drawn:
    """``rows`` pictures and ``rows`` sentences of each thing, for ``"train"`` or ``"test"``.

    There are 12 sentences of a thing for training and 6 for tests; more are a ValueError.
    """
    rng = random.Random(f"{split} {seed}")
    labels = np.repeat(np.arange(len(NAMES)), rows)
    pictures = [_picture(THINGS[NAMES[label]], split, rng) for label in labels]
    sentences = []
    for thing in THINGS.values():
        words = thing.train_words if split == "train" else thing.test_words
        lines = [line.strip() for line in words.splitlines()]
        sentences += [rng.choice(FRAMES[split]).format(line) for line in rng.sample(lines, rows)]
    return Drawn(pictures, labels, sentences, labels.copy())


def _picture(thing: Thing, split: str, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (TWICE, TWICE), rng.choice(GROUNDS[split]))
    side = rng.uniform(*rng.choice(SIDES[split]))
    free = (1 - side) / 2
    place = [TWICE * (0.5 + rng.uniform(-free, free)) for _ in range(2)]
    tilt = math.radians(rng.uniform(*rng.choice(TILTS[split])))
    pen = Pen(image, (place[0], place[1]), TWICE * side, tilt, rng.random() < 0.5)
    thing.draw(pen, *rng.sample(COLOURS[split], 2))
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)

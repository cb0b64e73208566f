"""True sentences about a scene: objects with size, colour and place, relations, and the background."""

from __future__ import annotations

from collections.abc import Sequence

# noun of each kind; a list of words, because some kinds are named by more than one
WORDS: dict[str, tuple[str, ...]] = {
    "man": ("face", "of", "a", "man"),
    "woman": ("face", "of", "a", "woman"),
    "baby": ("face", "of", "a", "baby"),
    "clown": ("face", "of", "a", "clown"),
    "hi": ("word", "hi"),
    "zoo": ("word", "zoo"),
    "stop": ("word", "stop"),
    "taxi": ("word", "taxi"),
    "icecream": ("icecream",),
}
WEARS = ("faces", "bodies")  # domains whose colour is that of clothes or hair: "a dancer in red"
PLACES = {
    (-1, -1): "at the top left", (0, -1): "at the top", (1, -1): "at the top right",
    (-1, 0): "on the left", (0, 0): "in the middle", (1, 0): "on the right",
    (-1, 1): "at the bottom left", (0, 1): "at the bottom", (1, 1): "at the bottom right",
}  # fmt: skip
SETTINGS = {
    "beach": "on a beach", "forest": "in a forest", "city": "in a city", "snow": "in the snow",
    "desert": "in a desert", "room": "in a room", "night": "at night", "meadow": "on a meadow",
}  # fmt: skip
N_PHRASINGS = 6
_CLEAR = 0.3  # offset, in half pictures, from which "left of" or "above" is said


def noun(kind: str) -> str:
    """The noun phrase of a kind as captions write it, e.g. "face of a man"."""
    return " ".join(WORDS.get(kind, (kind,)))


def naming(kind: str, domain: str, color: str, size: str) -> str:
    """An object with size and colour but without an article: "large red car", "small dancer in blue"."""
    if domain in WEARS:
        return f"{size} {noun(kind)} in {color}"
    return f"{size} {color} {noun(kind)}"


def relation(dx: float, dy: float) -> str | None:
    """Where an object at offset (dx, dy) from another stands, by the clearer axis; None where neither is clear."""
    if max(abs(dx), abs(dy)) < _CLEAR:
        return None
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def phrase(
    number: int, named: Sequence[str], cells: Sequence[tuple[int, int]], at: Sequence[tuple[float, float]], background: str
) -> str:
    """Sentence `number` (0..N_PHRASINGS-1) for objects `named`, in the 3 x 3 `cells`, centred `at`, on a background."""
    where = [PLACES[cell] for cell in cells]
    setting = SETTINGS[background]
    placed = [f"a {name} {place}" for name, place in zip(named, where, strict=True)]
    if number == 0:
        return " and ".join(placed) + " , " + setting
    if number == 1:
        return f"{setting} there is " + " and ".join(reversed(placed))
    if number == 2:
        return "a picture of " + " , ".join(placed) + " " + setting
    if number == 3:
        return " , ".join(f"{place} a {name}" for name, place in zip(named, where, strict=True)) + " , " + setting
    if number == 4:
        return f"{background} : " + " , ".join(
            f"{name} {place}" for name, place in reversed(list(zip(named, where, strict=True)))
        )
    parts = []
    for i in range(1, len(named)):
        says = relation(at[i - 1][0] - at[i][0], at[i - 1][1] - at[i][1])
        parts.append(f"the {named[i - 1]} is {says} the {named[i]}" if says else f"a {named[i - 1]} and a {named[i]}")
    return (" , ".join(parts) if parts else f"there is a {named[0]} {where[0]}") + f" , {setting}"


def vocabulary(kinds: Sequence[str], colors: Sequence[str]) -> list[str]:
    """Every word that a caption can hold, sorted."""
    fixed = "a the is there picture of and , : in small large left right above below " + " ".join(
        [*PLACES.values(), *SETTINGS.values(), *SETTINGS]
    )
    return sorted({*fixed.split(), *colors, *(word for kind in kinds for word in noun(kind).split())})
